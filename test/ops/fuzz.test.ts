// Garbage from JavaScript on every op: wrong dtypes, shapes, indices, scalars, disposed and missing operands. Every call must
// succeed or end in one of our errors; a crash ends the process and with it this file. No GPU.
// Alone: npx vitest run test/ops/fuzz.test.ts (ESFT_FUZZ=20000 for more rounds, ESFT_FUZZ_SEED=7 for others)

import { afterAll, describe, expect, it } from "vitest";
import { ConfigError, DisposedError, KernelError, MemoryError } from "../../lib/errors.ts";
import { maskGrad } from "../../lib/ops.ts";
import type { Ids } from "../../lib/ops.ts";
import { Tensor, TensorList } from "../../lib/tensor.ts";
import type { DType } from "../../lib/tensor.ts";
import { bases } from "./cases/index.ts";
import { Random, sizeOf } from "./host.ts";
import { Call, closeDevices, device, fieldsOf, indexOf, opNames } from "./support.ts";

const rounds = Number(process.env.ESFT_FUZZ ?? 250);
const seed = Number(process.env.ESFT_FUZZ_SEED ?? 1);
afterAll(closeDevices);

const dtypes: readonly DType[] = ["f32", "bf16", "i32", "i64", "f64", "u8"];
const numbers = [
  0,
  -0,
  1,
  -1,
  2,
  3,
  7,
  64,
  65,
  1e9,
  2 ** 31 - 1,
  2 ** 31,
  -(2 ** 31),
  2 ** 53 - 1,
  -(2 ** 53) + 1,
  2 ** 53,
  1e308,
  0.5,
  NaN,
  Infinity,
  -Infinity,
];
const foreign: readonly unknown[] = [
  undefined,
  null,
  "1",
  "",
  true,
  [],
  [1, 2],
  {},
  { shape: [1] },
  () => 1,
  Symbol("s"),
  10n,
  new Float32Array(3),
  new Date(0),
  new Proxy({}, {}),
];
const pick = <T>(r: Random, items: readonly T[]): T => items[r.below(items.length)]!;

const isOurs = (error: unknown): boolean => [KernelError, DisposedError, ConfigError, MemoryError].some((type) => error instanceof type);

/** Values an index might have: mostly small, sometimes absurd. */
function wildValues(r: Random, dtype: DType, n: number): number[] {
  const wild = r.below(3) === 0;
  return Array.from({ length: n }, () => {
    if (dtype === "f32" || dtype === "f64" || dtype === "bf16") return wild ? pick(r, numbers) : r.gauss();
    if (dtype === "u8") return r.below(256);
    return wild ? pick(r, [-1, -2147483648, 2147483647, 1000, 0]) : r.below(6);
  });
}

function randomShape(r: Random): number[] {
  return Array.from({ length: r.below(5) }, () => pick(r, [0, 1, 1, 2, 3, 4, 5, 7, 8, 17]));
}

function randomTensor(r: Random, keep: (t: Tensor) => Tensor, near?: Tensor): Tensor {
  const d = device(r.below(20) === 0 ? "ref" : "cpu");
  const dtype = near && r.below(3) ? near.dtype : pick(r, dtypes);
  const shape = near ? [...near.shape] : randomShape(r);
  if (near && shape.length && r.below(2)) shape[r.below(shape.length)] = pick(r, [0, 1, 2, 3, 5, 6, 9]);
  const t = keep(d.tensor(dtype, shape, wildValues(r, dtype, sizeOf(shape))));
  if (r.below(4) === 0 && shape.length && t.size > 0) {
    const cols = shape.at(-1)!;
    return keep(t.view(0, [Math.max(1, Math.floor(sizeOf(shape.slice(0, -1)) / 2)), Math.ceil(cols / 2)], { ld: cols }));
  }
  return t;
}

/** One argument replaced by something wrong, or at least surprising. */
function spoil(r: Random, call: Call, others: readonly Tensor[], keep: (t: Tensor) => Tensor): void {
  const field = pick(r, fieldsOf(call.op));
  const args = call.args as Record<string, unknown>;
  const now = args[field.name];
  switch (r.below(8)) {
    case 0:
      args[field.name] = pick(r, foreign);
      return;
    case 1:
      args[field.name] = pick(r, numbers);
      return;
    case 2:
      if (others.length) args[field.name] = pick(r, others);
      return;
    case 3:
      if (now instanceof Tensor)
        now.write(
          r.below(2) ? wildValues(r, now.dtype, now.size) : wildValues(r, now.dtype, now.size).map((v) => (Number.isFinite(v) ? v : 0)),
        );
      return;
    case 4:
      if ((now instanceof Tensor || now instanceof TensorList) && r.below(4) === 0) now.dispose();
      return;
    default:
      if (field.kind === "i64") args[field.name] = pick(r, [0, 1, 2, 3, 4, 5, 8, 63, 64, -1]);
      else if (field.kind === "f64") args[field.name] = pick(r, numbers);
      else if (field.kind === "ints") {
        const ids = Array.from({ length: r.below(4) }, () => pick(r, [0, 1, 2, 3, -1, 2 ** 31, 0.5]));
        args[field.name] = r.below(2) ? ids : pick(r, [Int32Array, Float32Array, Uint8Array]).from(ids);
      } else if (field.kind === "list") {
        const items =
          now instanceof TensorList && r.below(2) ? [...now.tensors] : Array.from({ length: r.below(5) }, () => randomTensor(r, keep));
        if (items.length && r.below(2)) items[r.below(items.length)] = randomTensor(r, keep, pick(r, items));
        else items.pop();
        const alive = items.filter((t) => !t.disposed && t.device === device("cpu"));
        args[field.name] = device("cpu").list(alive);
      } else args[field.name] = randomTensor(r, keep, now instanceof Tensor && !now.disposed ? now : undefined);
  }
}

describe("garbage", () => {
  for (const op of opNames)
    it(
      op,
      async () => {
        const base = bases.find((b) => b.op === op)!;
        let refused = 0;
        for (let i = 0; i < rounds; i++) {
          const r = new Random(`${op} ${seed} ${i}`);
          const made: Tensor[] = [];
          const keep = (t: Tensor): Tensor => (made.push(t), t);
          const call = new Call(device(i % 4 === 0 ? "ref" : "cpu"), op, base.args(r));
          try {
            const spoils = 1 + r.below(3);
            for (let s = 0; s < spoils; s++)
              spoil(
                r,
                call,
                [...call.placed.values()].map((p) => p.view),
                keep,
              );
            call.submit();
            await call.device.synchronize();
          } catch (error) {
            refused++;
            if (!isOurs(error)) throw new Error(`${op}, seed ${seed}, round ${i}: ${String(error)}`, { cause: error });
          }
          for (const t of made) t.dispose();
          call.dispose();
        }
        expect(refused).toBeGreaterThan(rounds / 5);
        // The devices still work.
        for (const kind of ["ref", "cpu"] as const) {
          const call = new Call(device(kind), op, base.args(new Random(0)));
          call.submit();
          await call.device.synchronize();
          call.dispose();
        }
      },
      120_000,
    );

  it("the values of a call in another order", async () => {
    for (const { op, args } of bases) {
      const call = new Call(device("cpu"), op, args(new Random(op)));
      const values = fieldsOf(op).map(({ name }) => call.args[name]);
      for (let shift = 1; shift < values.length; shift++) {
        for (const [i, { name }] of fieldsOf(op).entries()) call.args[name] = values[(i + shift) % values.length]!;
        try {
          call.submit();
          await call.device.synchronize();
        } catch (error) {
          if (!isOurs(error)) throw new Error(`${op}, shifted by ${shift}: ${String(error)}`, { cause: error });
        }
      }
      call.dispose();
    }
  });

  it("integers in arrays of every kind", () => {
    const d = device("cpu");
    const grad = d.tensor("f32", [4, 2], [1, 1, 1, 1, 1, 1, 1, 1]);
    const detached = Int32Array.of(0, 1);
    structuredClone(detached.buffer, { transfer: [detached.buffer] });
    const run = (keep: unknown) => (): void => maskGrad(d, { grad, keep: keep as Ids });
    const shared = new Int32Array(new SharedArrayBuffer(16), 4, 2);
    shared.set([1, 3]);
    for (const keep of [
      [],
      [0, 3],
      Int32Array.of(0, 3),
      Int32Array.of(9, 1, 2).subarray(1),
      new Int32Array(0),
      detached,
      shared,
      null,
      undefined,
    ])
      expect(run(keep)).not.toThrow();
    for (const keep of [
      [4],
      [-1],
      [1, 1],
      [1, 0],
      [0.5],
      ["1"],
      [[1]],
      [NaN],
      [2 ** 31],
      [2 ** 32], // 0 in its lower half
      [0, 2 ** 32 + 1],
      Int32Array.of(4),
      Int32Array.of(2, 1),
      Uint32Array.of(1),
    ])
      expect(run(keep)).toThrow(/^mask_grad: keep/);
    for (const keep of [new Int32Array(2 ** 24 + 1), new Array(2 ** 24 + 1).fill(0)])
      expect(run(keep)).toThrow(/^mask_grad: keep must be at most 2\^24 integers/);
    for (const keep of [new Float64Array(1), new BigInt64Array(1), new DataView(new ArrayBuffer(4)), { length: 1, 0: 1 }, "12", 3, () => 1])
      expect(run(keep)).toThrow(/^mask_grad: keep must be an array of integers/);
  });

  it("the entry point itself", () => {
    const d = device("cpu");
    for (const index of [-1, 1e9, NaN, 0.5, "add", undefined, null, {}]) expect(() => d.submit(index as number, [])).toThrow(KernelError);
    expect(() => (d.handle.run as () => void)()).toThrow();
    for (const op of opNames)
      for (const count of [0, 1, fieldsOf(op).length - 1, fieldsOf(op).length + 1, 100])
        expect(() => d.submit(indexOf(op), new Array(count).fill(0))).toThrow(`${op}: arguments must be ${fieldsOf(op).length} values`);
    for (const shape of [[-1], [1.5], [2 ** 40, 2 ** 40], [1, 1, 1, 1, 1], ["a"], [NaN]])
      expect(() => d.empty("f32", shape as number[])).toThrow(KernelError);
    const t = d.empty("f32", [4, 6]);
    for (const [offset, shape, ld] of [
      [-1, [1], 1],
      [0, [4, 7], 7],
      [1, [4, 6], 6],
      [0, [2, 3], 2],
      [0, [4, 6], 2 ** 50],
      [2 ** 52, [1], 1],
      [0, [5, 1], 6],
    ] as const)
      expect(() => t.view(offset, shape, { ld })).toThrow(KernelError);
    expect(() => t.write(new Float32Array(23))).toThrow(KernelError);
    t.dispose();
    for (const use of [() => t.view(0, [1]), () => t.write(new Float32Array(24))]) expect(use).toThrow(DisposedError);
  });
});
