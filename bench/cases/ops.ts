// Benchmark cases of single ops: the performance rows of test/ops/cases, placed on a device. What a call overwrites, what it
// accumulates into and how many bytes it moves follows from the argument lists and from how the table made the tensors.

import { Tensor, TensorList } from "../../lib/tensor.ts";
import { bytesOf } from "../../lib/tensor.ts";
import { bf16Args } from "../../test/ops/bf16_args.ts";
import { Sketch, sizeOf } from "../../test/ops/host.ts";
import type { Arg, Args, HostTensor } from "../../test/ops/host.ts";
import type { OpCall, PerfCalls, PerfRow } from "../../test/ops/perf.ts";
import { fieldsOf, indexOf } from "../../test/ops/schema.ts";
import type { Buffers } from "./buffers.ts";
import { tiny } from "./case.ts";
import type { BenchCase, Work } from "./case.ts";

type Described = HostTensor | readonly HostTensor[];
const isTensors = (a: Arg): a is Described =>
  typeof a === "object" && a !== null && ("dtype" in a || (Array.isArray(a) && (a.length === 0 || typeof a[0] === "object")));
const itemsOf = (d: Described): readonly HostTensor[] => ("dtype" in d ? [d] : d);

/** Made by `out`: a call writes all of it and reads nothing. */
const isOutput = (h: HostTensor): boolean => {
  const { fill, dtype } = h;
  if (!fill || !("constant" in fill)) return false;
  return dtype === "i32" || dtype === "i64" ? fill.constant === 77 : Number.isNaN(fill.constant);
};

interface Operand {
  readonly tensors: Described;
  readonly written: boolean;
  /** Its old content matters. */
  readonly read: boolean;
}

/** Every tensor of the calls once, and what happens to it first. */
function operandsOf(calls: readonly OpCall[]): Operand[] {
  const found = new Map<Described, Operand>();
  for (const { op, args } of calls)
    for (const { name, kind, written } of fieldsOf(op)) {
      const tensors = args[name];
      if (!isTensors(tensors) || kind === "ints") continue;
      const before = found.get(tensors);
      const read = before?.read ?? !itemsOf(tensors).every((h) => written && isOutput(h));
      found.set(tensors, { tensors, read, written: written || (before?.written ?? false) });
    }
  return [...found.values()];
}

function bytesMoved(calls: readonly OpCall[]): number {
  const size = ({ tensors }: Operand): number => itemsOf(tensors).reduce((n, h) => n + sizeOf(h.shape) * bytesOf(h.dtype), 0);
  return operandsOf(calls).reduce((n, o) => n + size(o) * (Number(o.read) + Number(o.written)), 0);
}

interface Placed {
  /** One tensor, or the memory of a whole list. */
  readonly memory: readonly Tensor[];
  readonly operand: Tensor | TensorList;
  readonly refill: () => void;
}

function place(b: Buffers, tensors: Described): Placed {
  if ("dtype" in tensors) {
    const one = b.make(tensors);
    return { memory: [one.tensor], operand: one.tensor, refill: one.refill };
  }
  // Matrices of one kind lie behind each other, as experts of a layer do.
  const first = tensors[0];
  const alike = (h: HostTensor): boolean =>
    h.dtype === first!.dtype && h.shape.join() === first!.shape.join() && JSON.stringify(h.fill) === JSON.stringify(first!.fill);
  if (first?.fill && tensors.every(alike)) {
    const size = sizeOf(first.shape);
    const { tensor, refill } = b.make({ ...filledLike(first), shape: [tensors.length * size] });
    const items = tensors.map((_, i) => b.view(tensor, i * size, first.shape));
    return { memory: [tensor], operand: b.list(items), refill };
  }
  const all = tensors.map((h) => b.make(h));
  return { memory: all.map((x) => x.tensor), operand: b.list(all.map((x) => x.tensor)), refill: () => all.forEach((x) => x.refill()) };
}
/** Without its values, which may be too many to make. */
const filledLike = ({ dtype, shape, fill }: HostTensor): HostTensor => ({ dtype, shape, values: [], ...(fill ? { fill } : {}) });

/** Arguments on a device, in the order of the op's list; `same` names the memory of another argument. */
function bind(op: string, args: Args, placed: ReadonlyMap<Described, Placed>): unknown[] {
  const value = (a: Arg): Tensor | TensorList | readonly number[] | number | null => {
    if (a === undefined || a === null) return null;
    if (typeof a === "object" && "same" in a) return value(args[a.same]);
    if (isTensors(a)) return placed.get(a)?.operand ?? [];
    return a as readonly number[] | number;
  };
  return fieldsOf(op).map(({ name }) => {
    const v = value(args[name]);
    return v instanceof Tensor || v instanceof TensorList ? v.handle : v;
  });
}

function setup(b: Buffers, calls: readonly OpCall[], facts: PerfCalls["facts"]): Work {
  const operands = operandsOf(calls).map((o) => ({ ...o, placed: place(b, o.tensors) }));
  const placed = new Map(operands.map((o) => [o.tensors, o.placed]));
  const bound = calls.map(({ op, args }) => ({ index: indexOf(op), values: bind(op, args, placed) }));
  const state = operands.filter((o) => o.written && o.read);
  return {
    run: () => {
      for (const { index, values } of bound) b.device.submit(index, values);
    },
    outputs: operands.filter((o) => o.written && !o.read).flatMap((o) => o.placed.memory),
    state: state.flatMap((o) => o.placed.memory),
    reset: () => {
      for (const o of state) o.placed.refill();
    },
    ...(facts ? { facts } : {}),
  };
}

export function opCase(row: PerfRow, small: boolean): BenchCase {
  const sizes = small ? tiny(row.sizes) : row.sizes;
  const make = (): PerfCalls => {
    const made = row.make(sizes, new Sketch(row.id));
    return row.on === "cpu" ? made : { ...made, calls: made.calls.map(({ op, args }) => ({ op, args: bf16Args(op, args) })) };
  };
  return {
    id: row.id,
    on: row.on,
    sizes,
    headline: true,
    cost: () => {
      const { calls, facts: _facts, ...known } = make();
      return { bytes: bytesMoved(calls), ...known };
    },
    setup: (b) => {
      const { calls, facts } = make();
      return setup(b, calls, facts);
    },
  };
}
