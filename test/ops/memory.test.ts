// Whose memory an op may write, for every op from its argument list alone: an output lies apart from every other argument, down to
// one shared element, in either order and between any two items of lists; nothing that is mapped from a file is written. No GPU.
// Alone: npx vitest run test/ops/memory.test.ts

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { KernelError } from "../../lib/errors.ts";
import { bytesOf, MappedFile } from "../../lib/tensor.ts";
import type { Tensor, TensorList } from "../../lib/tensor.ts";
import * as ops from "../../lib/ops.ts";
import { allCases, bases } from "./cases/index.ts";
import { Random, sizeOf } from "./host.ts";
import type { Args, HostTensor } from "./host.ts";
import { Call, closeDevices, device, fieldsOf, opNames } from "./support.ts";

const folder = mkdtempSync(path.join(tmpdir(), "esft-memory-"));
afterAll(closeDevices);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const elements = (args: Args): number =>
  Object.values(args)
    .flat()
    .reduce<number>((sum, a) => sum + (a !== null && typeof a === "object" && "shape" in a ? sizeOf(a.shape) : 0), 0);

/** The op's base, and small cases that give what it leaves out. */
function callsOf(op: string): Args[] {
  const cases = [...bases, ...allCases].filter((c) => c.op === op).map((c) => c.args(new Random(c.name)));
  const apart = cases.filter((args) => !Object.values(args).some((a) => a !== null && typeof a === "object" && "same" in a));
  const [base, ...others] = apart as [Args, ...Args[]];
  const given = (args: Args): Set<string> => new Set(spotsOf(op, args).map(({ name }) => name));
  const chosen = [base];
  const missing = new Set(
    fieldsOf(op)
      .filter(({ name, kind }) => (kind === "tensor" || kind === "list") && !given(base).has(name))
      .map(({ name }) => name),
  );
  while (missing.size > 0) {
    const gain = (args: Args): number => [...given(args)].filter((name) => missing.has(name)).length;
    const best = others.toSorted((a, b) => gain(b) - gain(a) || elements(a) - elements(b))[0];
    if (!best || gain(best) === 0) throw new Error(`${op}: no case gives ${[...missing].join(", ")}`);
    chosen.push(best);
    for (const name of given(best)) missing.delete(name);
  }
  return chosen;
}

/** A tensor of a call: an argument, or an item of one. */
interface Spot {
  readonly name: string;
  readonly item: number | null;
  readonly host: HostTensor;
  readonly written: boolean;
}
const label = ({ name, item }: Spot): string => (item === null ? name : `${name}[${item}]`);

/** Those that have elements. */
function spotsOf(op: string, args: Args): Spot[] {
  const spots = fieldsOf(op).flatMap(({ name, kind, written }): Spot[] => {
    const a = args[name];
    if (a === undefined || a === null) return [];
    if (kind === "list") return (a as readonly HostTensor[]).map((host, item) => ({ name, item, host, written }));
    return kind === "tensor" ? [{ name, item: null, host: a as HostTensor, written }] : [];
  });
  return spots.filter(({ host }) => sizeOf(host.shape) > 0);
}

/** Puts tensors in place of the call's own. */
function replace(call: Call, with_: readonly (readonly [Spot, Tensor])[]): void {
  for (const { name, kind } of fieldsOf(call.op)) {
    const own = with_.filter(([spot]) => spot.name === name);
    if (own.length === 0) continue;
    if (kind === "tensor") call.args[name] = own[0]![1];
    else
      call.args[name] = call.device.list(
        call.lists.get(name)!.map((placed, i) => own.find(([spot]) => spot.item === i)?.[1] ?? placed.view),
      );
  }
}

/** Two tensors in one buffer. `apart` = the second begins behind the first; otherwise in the last element of the first. */
function together(call: Call, first: Spot, second: Spot, apart: boolean): void {
  const extent = sizeOf(first.host.shape) * bytesOf(first.host.dtype);
  const size = bytesOf(second.host.dtype);
  const at = apart ? Math.ceil(extent / size) : Math.floor((extent - 1) / size);
  const buffer = call.device.empty("u8", [extent + size * (1 + sizeOf(second.host.shape))]);
  replace(call, [
    [first, buffer.view(0, first.host.shape, { dtype: first.host.dtype })],
    [second, buffer.view(at, second.host.shape, { dtype: second.host.dtype })],
  ]);
  buffer.dispose();
}

const failure = (call: Call): string => {
  try {
    call.submit();
  } catch (error) {
    if (error instanceof KernelError) return error.message;
    throw error;
  }
  return "accepted";
};

describe("an output in the memory of another argument is refused, beside it is fine", () => {
  for (const op of opNames)
    it(op, async () => {
      let pairs = 0;
      for (const args of callsOf(op)) {
        const call = new Call(device("cpu"), op, args);
        const before = { ...call.args };
        const spots = spotsOf(op, args);
        for (const a of spots)
          for (const b of spots) {
            if (a === b || !(a.written || b.written)) continue;
            pairs++;
            Object.assign(call.args, before);
            together(call, a, b, false);
            const found = failure(call);
            expect(found, `${label(a)} reaches into ${label(b)}`).toMatch(
              new RegExp(`^${op}: .* must be memory apart from .*, received overlapping memory`),
            );
            expect(
              [label(a), label(b), a.name, b.name].some((name) => found.includes(`: ${name} must be`)),
              found,
            ).toBe(true);
            Object.assign(call.args, before);
            together(call, a, b, true);
            expect(failure(call), `${label(a)} beside ${label(b)}`).toBe("accepted");
            await device("cpu")
              .synchronize()
              .catch(() => undefined); // index tensors are zeros
          }
        call.dispose();
      }
      const only = fieldsOf(op).filter(({ kind }) => kind === "tensor" || kind === "list");
      if (only.length > 1) expect(pairs).toBeGreaterThan(0);
    });
});

describe("an output that is mapped from a file is refused, an input is read there", () => {
  for (const op of opNames)
    it(op, async () => {
      for (const [i, args] of callsOf(op).entries()) {
        const call = new Call(device("cpu"), op, args);
        const before = { ...call.args };
        const spots = spotsOf(op, args);
        const file = path.join(folder, `${op}.${i}`);
        const offsets: number[] = [];
        const parts: Buffer[] = [];
        for (const { name, item, host } of spots) {
          const own = item === null ? call.placed.get(name)! : call.lists.get(name)![item]!;
          const bytes = Buffer.from(await own.view.readBytes());
          offsets.push(parts.reduce((sum, part) => sum + part.length, 0));
          expect(bytes.length).toBe(sizeOf(host.shape) * bytesOf(host.dtype));
          parts.push(bytes, Buffer.alloc(-bytes.length & 63));
        }
        writeFileSync(file, Buffer.concat(parts));
        const mapped = new MappedFile(file);
        for (const [j, spot] of spots.entries()) {
          const whole = device("cpu").mapped(mapped, offsets[j]!, spot.host.dtype, spot.host.shape);
          for (const t of [whole, whole.view(0, spot.host.shape)]) {
            Object.assign(call.args, before);
            replace(call, [[spot, t]]);
            const found = failure(call);
            if (spot.written)
              expect(found, label(spot)).toMatch(new RegExp(`^${op}: ${spot.name} must be writable.*, received a read-only mapped tensor`));
            else expect(found, label(spot)).toBe("accepted");
            await device("cpu").synchronize();
          }
        }
        expect(readFileSync(file).equals(Buffer.concat(parts))).toBe(true);
        mapped.dispose();
        call.dispose();
      }
    });
});

it("columns of one buffer are apart as long as no column is of two", () => {
  const d = device("cpu");
  const buffer = d.empty("f32", [12, 24]);
  const columns = (from: number, to: number, row = 0): Tensor => buffer.view(24 * row + from, [10, to - from], { ld: 24 });
  const far = (): Tensor => d.empty("f32", [10, 4]);
  const adamw = (...params: Tensor[]) => {
    const list = (): TensorList => d.list(params.map(far));
    const options = { maxNorm: 0, lr: 0, beta1: 0, beta2: 0, eps: 1, weightDecay: 0, step: 1 };
    return () => ops.adamw(d, { params: d.list(params), grads: list(), m: list(), v: list(), norm: null, ...options });
  };
  expect(adamw(columns(0, 4), columns(4, 8), columns(8, 12), columns(20, 24))).not.toThrow();
  expect(adamw(columns(20, 24), columns(0, 4, 1), columns(4, 8))).not.toThrow();
  expect(adamw(columns(0, 4), columns(3, 7))).toThrow(/^adamw: params\[0\] must be memory apart from params\[1\]/);
  expect(adamw(columns(20, 24), columns(19, 23, 1))).toThrow(/memory apart/);
  // The second reaches farther than the first, and only the first is met by the third.
  expect(adamw(columns(0, 4), columns(8, 12), columns(2, 6, 1))).toThrow(/^adamw: params\[0\] must be memory apart from params\[2\]/);
  // Rows of another length, and elements of another size: no columns to tell apart.
  expect(adamw(columns(0, 4), buffer.view(12, [10, 4], { ld: 23 }))).toThrow(/memory apart/);
  const add = (y: Tensor, a: Tensor) => () => ops.add(d, { a, b: a, y, alpha: 1 });
  expect(add(columns(0, 4), columns(4, 8))).not.toThrow();
  expect(add(columns(4, 8), columns(0, 4))).not.toThrow();
  expect(add(columns(0, 4), columns(0, 4))).not.toThrow();
  expect(add(columns(0, 4), columns(0, 4, 1))).toThrow(/memory apart/);
  expect(add(columns(0, 4, 1), columns(0, 4))).toThrow(/memory apart/);
  expect(add(columns(0, 4), columns(1, 5))).toThrow(/memory apart/);
  expect(add(columns(20, 24), columns(22, 26))).toThrow(/memory apart/);
  // Columns that go on in the next row, from either side, and a row that ends before its stride does.
  expect(add(columns(0, 4), columns(22, 26))).toThrow(/memory apart/);
  expect(add(columns(22, 26), columns(0, 4))).toThrow(/memory apart/);
  const behind = buffer.view(24 * 9 + 4, [10, 4]);
  expect(add(columns(0, 4), behind)).not.toThrow();
  expect(add(behind, columns(0, 4))).not.toThrow();
  expect(add(columns(0, 4), buffer.view(24 * 9 + 3, [10, 4]))).toThrow(/memory apart/);
});

it("the same place is the same memory only as the same elements", () => {
  const d = device("cpu");
  const buffer = d.empty("f32", [12, 24]);
  const x = buffer.view(0, [6, 4], { ld: 24 });
  const as = (offset: number, dtype: "f32" | "bf16", ld: number): Tensor => buffer.view(offset, [6, 4], { dtype, ld });
  const cast = (y: Tensor) => () => ops.cast(d, { x, y });
  expect(cast(as(0, "f32", 24))).not.toThrow();
  expect(cast(as(0, "f32", 23))).toThrow(/memory apart/);
  expect(cast(as(0, "bf16", 24))).toThrow(/memory apart/);
  // As many elements from row to row, but of half the size: its third row is in the second of x.
  expect(cast(as(28, "bf16", 24))).toThrow(/memory apart/);
});

it("what is only read may lie anywhere, and so may what has no elements", async () => {
  const d = device("cpu");
  const x = d.tensor("f32", [2, 3], [1, 2, 3, 4, 5, 6]);
  const y = d.empty("f32", [2, 3]);
  ops.add(d, { a: x, b: x.view(0, [2, 3]), y, alpha: 1 });
  expect([...(await y.readF32())]).toEqual([2, 4, 6, 8, 10, 12]);
  const g = d.tensor("f32", [2], [3, 4]);
  const list = (n: number): TensorList => d.list(Array.from({ length: n }, () => d.empty("f32", [2])));
  const options = { maxNorm: 0, lr: 1, beta1: 0, beta2: 0, eps: 0, weightDecay: 0, step: 1 };
  const params = list(3);
  ops.adamw(d, { params, grads: d.list([g, g, g]), m: list(3), v: list(3), norm: null, ...options });
  for (const p of params.tensors) expect([...(await p.readF32())]).toEqual([-1, -1]);
  const inside = x.view(1, [0, 3], { ld: 3 });
  expect(() => ops.add(d, { a: inside, b: x.view(2, [0, 3], { ld: 3 }), y: inside, alpha: 1 })).not.toThrow();
  const none = (ld: number): Tensor => x.view(0, [2, 0], { ld });
  expect(() => ops.add(d, { a: none(2), b: none(2), y: none(3), alpha: 1 })).not.toThrow();
  expect(() => ops.columnSum(d, { x: x.view(0, [0, 3]), y: x.view(0, [3]) })).not.toThrow();
  await d.synchronize();
});

it("heads of dk and dv in one buffer are apart, wherever two first meet", () => {
  const d = device("cpu");
  const [T, heads, C] = [3, 3, 30];
  const both = d.empty("f32", [T, C]);
  const dBoth = d.empty("f32", [T, C]);
  const q = (): Tensor => d.empty("f32", [T, heads * 4]);
  const forward = { q: q(), k: both, v: both, kShared: null, docStart: d.empty("i32", [T]), out: q(), lse: d.empty("f32", [T, heads]) };
  const gradients = { dout: q(), dq: q(), dk: dBoth, dv: dBoth, dkShared: null };
  const backward = (kOffset: number, kStride: number, vOffset: number, vStride: number) => () =>
    ops.attentionBackward(d, {
      ...forward,
      ...gradients,
      layout: { heads, kvHeads: heads, kDim: 4, kOffset, kStride, vDim: 4, vOffset, vStride, window: 0, scale: 1 },
    });
  expect(backward(0, 10, 5, 10)).not.toThrow();
  expect(backward(0, 4, 12, 4)).not.toThrow();
  expect(backward(12, 4, 0, 4)).not.toThrow();
  expect(backward(0, 10, 5, 8)).toThrow(/dk must be columns apart from dv, received head 1 of dk over head 1 of dv/);
  expect(backward(5, 8, 0, 10)).toThrow(/head 1 of dk over head 1 of dv/);
  expect(backward(0, 4, 11, 4)).toThrow(/head 2 of dk over head 0 of dv/);
  expect(backward(3, 4, 0, 4)).toThrow(/head 0 of dk over head 0 of dv/);
});

it("a vector has no gaps", () => {
  const d = device("cpu");
  const [x, ids] = [d.empty("f32", [2, 3]), d.empty("i32", [2, 3])];
  const gaps = d.empty("f32", [3, 2]).columns(0, 1);
  expect(() => ops.columnSum(d, { x, y: gaps })).toThrow(
    /^column_sum: y must be contiguous with 3 elements, received \[3, 1\] f32 \(row stride 2\)/,
  );
  expect(() => ops.columnSum(d, { x, y: d.empty("f32", [3, 1]) })).not.toThrow();
  const lookUp = (ids: Tensor) => () => ops.embedding(d, { ids, table: x, y: d.empty("f32", [4, 3]) });
  expect(lookUp(ids.columns(0, 2))).toThrow(/^embedding: ids must be a contiguous vector/);
  expect(lookUp(ids.view(0, [2, 2]))).not.toThrow();
});
