// Drives the case tables of test/ops/cases: value against reference, bits against threads and repetition, gradients against
// finite differences, refusals. Every case runs on every instruction set this machine has.

import { afterAll, describe, expect, it } from "vitest";
import { DisposedError, KernelError } from "../../lib/errors.ts";
import { native } from "../../lib/native.ts";
import { Device, Tensor, TensorList } from "../../lib/tensor.ts";
import type { DType } from "../../lib/tensor.ts";
import { Random, sizeOf } from "./host.ts";
import type { Arg, Args, HostTensor } from "./host.ts";
import { fieldsOf, indexOf, valuesOf } from "./schema.ts";

export { fieldsOf, indexOf, opNames } from "./schema.ts";

export interface OpCase {
  readonly op: string;
  readonly name: string;
  readonly args: (random: Random) => Args;
  /** Length of the longest sum behind an output element. */
  readonly k?: number;
  /** Magnitude of what is summed, where sums cancel and the result says little about it. */
  readonly scale?: number;
  /** Rounding unit of an output, where it is not that of its dtype. */
  readonly eps?: Readonly<Record<string, Unit>>;
  /** Outputs as a plain JavaScript computation says (the reference is held against it). */
  readonly expected?: (args: Args) => Readonly<Record<string, ArrayLike<number> | readonly ArrayLike<number>[]>>;
  /** Words of the refusal where the CUDA device does not serve this call: never wrong results, never silence. */
  readonly cudaUnsupported?: string;
}

export type Unit = "f32" | "bf16" | "f64" | "exact";
const unitValue: Record<Unit, number> = { f32: 2 ** -23, bf16: 2 ** -8, f64: 2 ** -52, exact: 0 };
const defaultUnit: Record<DType, Unit> = { f32: "f32", bf16: "exact", f64: "f64", i32: "exact", i64: "exact", u8: "exact" };

/** The one tolerance: c · ε · √k · the largest magnitude in the tensor. */
export function tolerance(unit: Unit, k: number, scale: number): number {
  return 8 * unitValue[unit] * Math.sqrt(Math.max(1, k)) * scale;
}

/** Milliseconds: the references are plain loops, the machine may be busy, and its processor emulated (npm run test:arm64). */
const limit = process.env.ESFT_EMULATED ? 900_000 : 60_000;

// ---- devices ----------------------------------------------------------------------------------------------------------

const open = new Map<string, Device>();

/** A device of this instruction set (ref: none), opened once per test file. */
export function device(kind: "ref" | "cpu", threads = 2, isa = defaultIsa()): Device {
  const key = kind === "ref" ? "ref" : `${isa}/${threads}`;
  let d = open.get(key);
  if (!d) {
    const before = process.env.ESFT_ISA;
    try {
      if (kind === "cpu") process.env.ESFT_ISA = isa;
      d = new Device({ kind, threads });
    } finally {
      if (before === undefined) delete process.env.ESFT_ISA;
      else process.env.ESFT_ISA = before;
    }
    if (kind === "cpu" && d.info.instructionSet !== isa)
      throw new Error(`asked for ${isa}, got ${d.info.instructionSet}: run the tests in processes, not worker threads`);
    open.set(key, d);
  }
  return d;
}

export function defaultIsa(): string {
  return process.env.ESFT_ISA || native.instructionSets[0]!;
}

/** Instruction sets to test: ESFT_ISA alone when set, else all this machine has. */
export const instructionSets: readonly string[] = process.env.ESFT_ISA ? [process.env.ESFT_ISA] : native.instructionSets;

export function closeDevices(): void {
  for (const d of open.values()) d.dispose();
  open.clear();
}

// ---- one call ---------------------------------------------------------------------------------------------------------

/** What stands in the foreign columns of a strided tensor. */
const foreign = 61;

/** An uploaded argument: `base` is the whole buffer, `view` what the op gets. */
interface Placed {
  readonly base: Tensor;
  readonly view: Tensor;
  readonly host: HostTensor;
}

function place(d: Device, h: HostTensor): Placed {
  const ready = (h.dtype === "f32" && h.values instanceof Float32Array) || (h.dtype === "i32" && h.values instanceof Int32Array);
  if (!h.pad) {
    const base = d.tensor(h.dtype, h.shape, ready ? (h.values as Float32Array | Int32Array) : Array.from(h.values));
    return { base, view: base, host: h };
  }
  const numbers = h.values;
  const cols = h.shape.at(-1)!;
  const rows = sizeOf(h.shape.slice(0, -1));
  const [left, right] = h.pad;
  const ld = left + cols + right;
  const all = new Array<number>(rows * ld).fill(foreign);
  for (let r = 0; r < rows; r++) for (let c = 0; c < cols; c++) all[r * ld + left + c] = numbers[r * cols + c]!;
  const base = d.tensor(h.dtype, [rows, ld], all);
  const view = rows === 0 ? base.view(0, h.shape, { ld }) : base.view(left, h.shape, { ld });
  return { base, view, host: h };
}

async function readNumbers(t: Tensor): Promise<Float64Array> {
  const bytes = await t.readBytes();
  switch (t.dtype) {
    case "f32":
      return Float64Array.from(new Float32Array(bytes));
    case "f64":
      return new Float64Array(bytes);
    case "i32":
      return Float64Array.from(new Int32Array(bytes));
    case "u8":
      return Float64Array.from(new Uint8Array(bytes));
    case "i64":
      return Float64Array.from(new BigInt64Array(bytes), Number);
    case "bf16": {
      const wide = Uint32Array.from(new Uint16Array(bytes), (x) => x << 16);
      return Float64Array.from(new Float32Array(wide.buffer));
    }
  }
}

export interface Output {
  readonly name: string;
  readonly dtype: DType;
  readonly values: Float64Array;
  /** The whole buffer as bytes, foreign columns included. */
  readonly bytes: Uint8Array;
}

/** Everything of one call that lives on a device; `args` may be changed before `submit`. */
export class Call {
  readonly device: Device;
  readonly op: string;
  readonly placed = new Map<string, Placed>();
  readonly lists = new Map<string, Placed[]>();
  readonly args: Record<string, Tensor | TensorList | readonly number[] | number | null> = {};

  constructor(d: Device, op: string, args: Args) {
    this.device = d;
    this.op = op;
    const fields = fieldsOf(op);
    for (const key of Object.keys(args)) if (!fields.some((f) => f.name === key)) throw new Error(`${op} has no argument ${key}`);
    for (const { name, kind } of fields) {
      const a: Arg = args[name];
      if (a === undefined || a === null) this.args[name] = null;
      else if (kind === "list") {
        const items = (a as readonly HostTensor[]).map((h) => place(d, h));
        this.lists.set(name, items);
        this.args[name] = d.list(items.map((i) => i.view));
      } else if (typeof a === "object" && "dtype" in a) {
        const p = place(d, a);
        this.placed.set(name, p);
        this.args[name] = p.view;
      } else if (typeof a === "object" && "same" in a) continue;
      else this.args[name] = a as readonly number[] | number;
    }
    for (const { name } of fields) {
      const a = args[name];
      if (a && typeof a === "object" && "same" in a) {
        const p = this.placed.get(a.same);
        if (!p) throw new Error(`${op}: ${name} is the same as ${a.same}, which is not there`);
        this.placed.set(name, p);
        this.args[name] = p.view;
      }
    }
  }

  submit(): void {
    this.device.submit(indexOf(this.op), valuesOf(this.op, this.args));
  }

  /** All tensors the op writes, in the order of its arguments. */
  async outputs(): Promise<Output[]> {
    const result: Output[] = [];
    const read = async (name: string, p: Placed): Promise<void> => {
      result.push({ name, dtype: p.view.dtype, values: await readNumbers(p.view), bytes: new Uint8Array(await p.base.readBytes()) });
    };
    for (const f of fieldsOf(this.op)) {
      if (!f.written) continue;
      const p = this.placed.get(f.name);
      if (p) await read(f.name, p);
      for (const [i, item] of (this.lists.get(f.name) ?? []).entries()) await read(`${f.name}[${i}]`, item);
    }
    return result;
  }

  /** Every byte outside the views is as it was. */
  async expectForeignUntouched(): Promise<void> {
    for (const p of [...this.placed.values(), ...[...this.lists.values()].flat()]) {
      if (!p.host.pad) continue;
      const [left, right] = p.host.pad;
      const all = await readNumbers(p.base);
      const ld = p.base.shape[1]!;
      for (let i = 0; i < all.length; i++) {
        const c = i % ld;
        if ((c < left || c >= ld - right) && all[i] !== foreign)
          throw new Error(`${this.op} wrote outside a strided view: row ${Math.floor(i / ld)}, column ${c - left}`);
      }
    }
  }

  dispose(): void {
    for (const v of Object.values(this.args)) if (v instanceof TensorList || v instanceof Tensor) v.dispose();
    for (const p of [...this.placed.values(), ...[...this.lists.values()].flat()]) p.base.dispose();
  }
}

export async function run(d: Device, op: string, args: Args): Promise<Output[]> {
  const call = new Call(d, op, args);
  try {
    call.submit();
    const outputs = await call.outputs();
    await call.expectForeignUntouched();
    return outputs;
  } finally {
    call.dispose();
  }
}

/** One output's values by name. */
export function pick(outputs: readonly Output[], name: string): Float64Array {
  const o = outputs.find((x) => x.name === name);
  if (!o) throw new Error(`no output ${name}`);
  return o.values;
}

// ---- comparison -------------------------------------------------------------------------------------------------------

export function expectClose(label: string, got: ArrayLike<number>, want: ArrayLike<number>, unit: Unit, k: number, leastScale = 0): void {
  expect(got.length, `${label}: length`).toBe(want.length);
  let scale = leastScale;
  for (let i = 0; i < want.length; i++) if (Number.isFinite(want[i]!)) scale = Math.max(scale, Math.abs(want[i]!));
  const limit = tolerance(unit, k, scale);
  for (let i = 0; i < want.length; i++) {
    const g = got[i]!;
    const w = want[i]!;
    if (Object.is(g, w) || g === w) continue;
    if (!(Math.abs(g - w) <= limit))
      throw new Error(
        `${label}[${i}]: ${g}, expected ${w} within ${limit.toExponential(2)} (${unit}, k = ${k}, scale ${scale.toPrecision(4)})`,
      );
  }
}

function compare(c: OpCase, label: string, got: readonly Output[], want: readonly Output[]): void {
  expect(got.map((o) => o.name)).toEqual(want.map((o) => o.name));
  for (const [i, o] of got.entries()) {
    const unit = c.eps?.[o.name.replace(/\[.*/, "")] ?? defaultUnit[o.dtype];
    expectClose(`${label} ${o.name}`, o.values, want[i]!.values, unit, c.k ?? 1, c.scale);
  }
}

const needsBf16 = (args: Args): boolean => args.precision === 1;
const canRun = (d: Device, args: Args): boolean => !needsBf16(args) || d.info.bf16Compute;

/** Value, independence of threads and repetition, and the reference's own check, for each case. */
export function describeCases(stem: string, cases: readonly OpCase[]): void {
  afterAll(closeDevices);
  describe(`${stem}: value`, () => {
    for (const c of cases) {
      it(
        `${c.op}: ${c.name}`,
        async () => {
          const args = c.args(new Random(c.name));
          const want = await run(device("ref"), c.op, args);
          for (const isa of instructionSets) {
            const d = device("cpu", 2, isa);
            if (canRun(d, args)) compare(c, `${isa} ${c.op}`, await run(d, c.op, args), want);
          }
        },
        limit,
      );
    }
  });
  describe(`${stem}: the same bits on 1, 2 and 3 threads, and again`, () => {
    for (const c of cases) {
      it(
        `${c.op}: ${c.name}`,
        async () => {
          const args = c.args(new Random(c.name));
          if (!canRun(device("cpu"), args)) return;
          const first = await run(device("cpu", 2), c.op, args);
          for (const threads of [2, 1, 3])
            for (const [i, o] of (await run(device("cpu", threads), c.op, args)).entries())
              expect(Buffer.compare(o.bytes, first[i]!.bytes), `${o.name} on ${threads} threads`).toBe(0);
        },
        limit,
      );
    }
  });
  describe(`${stem}: the reference against plain JavaScript`, () => {
    for (const c of cases) {
      const { expected } = c;
      if (!expected) continue;
      it(
        `${c.op}: ${c.name}`,
        async () => {
          const args = c.args(new Random(c.name));
          const got = await run(device("ref"), c.op, args);
          for (const [name, want] of Object.entries(expected(args))) {
            const lists = isNested(want, c.op, name) ? want.map((w, i) => [`${name}[${i}]`, w] as const) : [[name, want] as const];
            for (const [label, w] of lists) {
              const o = got.find((x) => x.name === label)!;
              expectClose(`ref ${c.op} ${label}`, o.values, w, c.eps?.[name] ?? defaultUnit[o.dtype], c.k ?? 1, c.scale);
            }
          }
        },
        limit,
      );
    }
  });
}

/** The expected values of a list of tensors, rather than of one. */
export const isNested = (
  w: ArrayLike<number> | readonly ArrayLike<number>[],
  op: string,
  name: string,
): w is readonly ArrayLike<number>[] => fieldsOf(op).some((f) => f.name === name && f.kind === "list");

// ---- refusals -----------------------------------------------------------------------------------------------------------

export interface BadRow {
  readonly name: string;
  readonly change: Args;
  /** Words the message must hold beside the op's name: the argument, the position, what was found. */
  readonly says: readonly string[];
  /** Outputs may be half written: the refusal comes from the values of an operand, not of an index. */
  readonly partial?: boolean;
}

/** The op refuses `args` with a KernelError naming op and argument, and has not written anything. */
export async function expectRefused(d: Device, op: string, args: Args, says: readonly string[], partial = false): Promise<void> {
  const call = new Call(d, op, args);
  let error: unknown;
  try {
    const before = await call.outputs();
    try {
      call.submit();
      await d.synchronize();
    } catch (e) {
      error = e;
    }
    expect(error, `${op} on ${d.info.backend} accepted it`).toBeInstanceOf(KernelError);
    const { message } = error as KernelError;
    expect(message.startsWith(`${op}: `), message).toBe(true);
    for (const s of says) expect(message).toContain(s);
    if (!partial)
      for (const [i, o] of (await call.outputs()).entries())
        expect(Buffer.compare(o.bytes, before[i]!.bytes), `${o.name} was written`).toBe(0);
  } finally {
    call.dispose();
  }
}

export interface Refusals {
  readonly base: OpCase;
  readonly rows: readonly BadRow[];
  /** Tensors that may have one more row or column without contradiction. */
  readonly freeRows?: readonly string[];
  readonly freeCols?: readonly string[];
  /** Tensors of any dtype. */
  readonly freeDtype?: readonly string[];
  /** "out=in" pairs that may share memory. */
  readonly inPlace?: readonly string[];
}

const otherDtype = (d: DType): DType => (d === "i32" ? "f32" : d === "f64" ? "i64" : d === "i64" ? "f64" : "u8");
const grown = (h: HostTensor, axis: "rows" | "cols"): HostTensor => {
  const shape = [...h.shape];
  shape[axis === "rows" ? 0 : shape.length - 1]! += 1;
  const values = new Float64Array(sizeOf(shape));
  values.set(Array.from(h.values).slice(0, values.length));
  return { dtype: h.dtype, shape, values };
};

/** Refusals that follow from an op's argument list alone, then the rows of its table. */
export function describeRefusals(all: readonly Refusals[]): void {
  afterAll(closeDevices);
  for (const { base, rows, freeRows = [], freeCols = [], freeDtype = [], inPlace = [] } of all) {
    const { op } = base;
    const args = base.args(new Random(base.name));
    describe(`${op} refuses`, () => {
      for (const row of rows)
        it(row.name, async () => {
          for (const d of [device("ref"), ...instructionSets.map((isa) => device("cpu", 2, isa))])
            await expectRefused(d, op, { ...args, ...row.change }, row.says, row.partial);
        });
      const d = (): Device => device("cpu");
      for (const { name, kind, optional, written } of fieldsOf(op)) {
        const a = args[name];
        const h = a && typeof a === "object" && "dtype" in a ? a : undefined;
        if (!optional) it(`a missing ${name}`, () => expectRefused(d(), op, { ...args, [name]: null }, [name]));
        if (kind === "i64" || kind === "f64") {
          it(`a string as ${name}`, () => expectRefused(d(), op, { ...args, [name]: "1" as unknown as number }, [name]));
          it(`NaN as ${name}`, () => expectRefused(d(), op, { ...args, [name]: NaN }, [name]));
        }
        if (kind === "i64") {
          it(`1.5 as ${name}`, () => expectRefused(d(), op, { ...args, [name]: 1.5 }, [name]));
          it(`-1 as ${name}`, () => expectRefused(d(), op, { ...args, [name]: -1 }, [name]));
          it(`2^53 - 1 as ${name}`, () => expectRefused(d(), op, { ...args, [name]: Number.MAX_SAFE_INTEGER }, [name]));
        }
        if (kind === "list" && a) {
          const items = a as readonly HostTensor[];
          it(`an item of another dtype in ${name}`, () =>
            expectRefused(
              d(),
              op,
              {
                ...args,
                [name]: [...items.slice(0, -1), { ...items.at(-1)!, dtype: "u8", values: Array.from(items.at(-1)!.values, () => 1) }],
              },
              [name],
            ));
          if (!freeRows.includes(name)) {
            it(`one item too few in ${name}`, () => expectRefused(d(), op, { ...args, [name]: items.slice(0, -1) }, []));
            it(`an item of another shape in ${name}`, () =>
              expectRefused(d(), op, { ...args, [name]: [...items.slice(0, -1), grown(items.at(-1)!, "cols")] }, []));
          }
        }
        if (!h) continue;
        if (!freeDtype.includes(name))
          it(`${name} of another dtype`, () =>
            expectRefused(d(), op, { ...args, [name]: { ...h, dtype: otherDtype(h.dtype), values: Array.from(h.values, () => 1) } }, []));
        if (!freeRows.includes(name) && h.shape.length > 1)
          it(`one row too many in ${name}`, () => expectRefused(d(), op, { ...args, [name]: grown(h, "rows") }, []));
        if (!freeCols.includes(name))
          it(`one column too many in ${name}`, () => expectRefused(d(), op, { ...args, [name]: grown(h, "cols") }, []));
        it(`${name} after dispose()`, async () => {
          const call = new Call(d(), op, args);
          call.placed.get(name)!.view.dispose();
          expect(() => call.submit()).toThrow(DisposedError);
          call.dispose();
        });
        it(`${name} of another device`, () => {
          const call = new Call(d(), op, args);
          const stranger = device("ref").tensor(h.dtype, h.shape, Array.from(h.values));
          call.args[name] = stranger;
          expect(() => call.submit()).toThrow(/another device/);
          stranger.dispose();
          call.dispose();
        });
        if (!written) continue;
        for (const other of fieldsOf(op)) {
          const o = args[other.name];
          if (
            other.name === name ||
            !o ||
            typeof o !== "object" ||
            !("dtype" in o) ||
            inPlace.includes(`${name}=${other.name}`) ||
            inPlace.includes(`${other.name}=${name}`)
          )
            continue;
          if (o.dtype === h.dtype && o.shape.join() === h.shape.join())
            it(`${name} in the memory of ${other.name}`, () =>
              expectRefused(d(), op, { ...args, [name]: { same: other.name } }, ["memory"]));
        }
      }
    });
  }
}

// ---- gradients ----------------------------------------------------------------------------------------------------------

/**
 * Compares gradients with finite differences of `loss` along random directions.
 *
 * Four points per direction remove the h² term; the step actually taken (after rounding to f32) is what is multiplied.
 */
export async function checkGradients(options: {
  readonly inputs: Readonly<Record<string, Float32Array>>;
  readonly gradients: Readonly<Record<string, ArrayLike<number>>>;
  readonly loss: (inputs: Readonly<Record<string, Float32Array>>) => Promise<number>;
  readonly step?: number;
  readonly relative?: number;
}): Promise<void> {
  const { inputs, gradients, loss, step = 2e-2, relative = 2e-3 } = options;
  for (const [name, gradient] of Object.entries(gradients)) {
    const x = inputs[name]!;
    expect(gradient.length, `d${name}`).toBe(x.length);
    const random = new Random(`direction ${name}`);
    let norm = 0;
    for (let i = 0; i < gradient.length; i++) norm += gradient[i]! ** 2;
    for (let trial = 0; trial < 3; trial++) {
      // One direction over all elements, one along the gradient's own signs, one single element.
      const only = random.below(x.length);
      const u = Float64Array.from(x, (_, i) => (trial === 0 ? random.gauss() : trial === 1 ? Math.sign(gradient[i]!) : i === only ? 3 : 0));
      const length = Math.sqrt(u.reduce((s, v) => s + v * v, 0));
      const h = step / Math.max(1, length / 3);
      const moved = async (factor: number): Promise<number> =>
        loss({ ...inputs, [name]: Float32Array.from(x, (v, i) => v + factor * h * u[i]!) });
      const [a, b, c, e] = [await moved(1), await moved(-1), await moved(2), await moved(-2)];
      const numeric = (8 * (a! - b!) - (c! - e!)) / 12;
      let analytic = 0;
      for (let i = 0; i < x.length; i++) analytic += gradient[i]! * (Math.fround(x[i]! + h * u[i]!) - Math.fround(x[i]! - h * u[i]!)) * 0.5;
      const size = Math.sqrt(norm) * h * Math.min(length, 3);
      const error = Math.abs(numeric - analytic);
      if (!(error <= relative * Math.max(Math.abs(analytic), 0.1 * size) + 1e-9))
        throw new Error(`d${name}, direction ${trial}: analytic ${analytic}, finite differences ${numeric}`);
    }
  }
}

/** Σ weight · value in f64: turns an op's output into a loss whose gradient is `weight`. */
export function weighted(values: ArrayLike<number>, weight: ArrayLike<number>): number {
  let s = 0;
  for (let i = 0; i < values.length; i++) s += values[i]! * weight[i]!;
  return s;
}
