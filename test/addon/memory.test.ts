// Handles and the memory behind them: what the garbage collector is told about it, where a view may begin and end, what keeps memory
// alive. No GPU. Alone: npx vitest run test/addon/memory.test.ts

import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { afterAll, describe, expect, it } from "vitest";
import { KernelError } from "../../lib/errors.ts";
import { native } from "../../lib/native.ts";
import * as ops from "../../lib/ops.ts";
import { Device, MappedFile } from "../../lib/tensor.ts";
import type { DType, Tensor } from "../../lib/tensor.ts";

setFlagsFromString("--expose-gc");
const gc = runInNewContext("gc") as () => void;
const folder = mkdtempSync(join(tmpdir(), "esft-addon-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const MB = 1 << 20;
/** Megabytes outside the heap that V8 has been told of, to the nearest. */
const external = (): number => Math.round(native.externalMemory() / MB);
/** Collects what nobody holds, and lets its finalizers run. */
async function collect(): Promise<void> {
  for (let i = 0; i < 3; i++) {
    gc();
    await new Promise((resolve) => setImmediate(resolve));
  }
}

describe("the memory that V8 is told of", () => {
  it("is that of tensors which own it, until they are disposed", async () => {
    await using d = new Device();
    await collect();
    const before = external();
    const a = d.empty("f32", [16 * MB]);
    expect(external() - before).toBe(64);
    const b = d.empty("bf16", [4 * MB, 2]);
    expect(external() - before).toBe(80);
    const view = a.view(0, [8 * MB]);
    const list = d.list([a, b, view]);
    expect(external() - before, "views and lists have none of their own").toBe(80);
    view.dispose();
    expect(external() - before).toBe(80);
    a.dispose();
    expect(external() - before).toBe(16);
    a.dispose();
    expect(external() - before, "once").toBe(16);
    b.dispose();
    list.dispose();
    expect(external()).toBe(before);
    await collect();
    expect(external(), "a finalizer takes nothing away again").toBe(before);
  });

  it("is given back when the garbage collector takes a tensor", async () => {
    await using d = new Device();
    await collect();
    const before = external();
    for (let i = 0; i < 4; i++) d.empty("u8", [16 * MB]);
    expect(external() - before).toBeGreaterThanOrEqual(16);
    await collect();
    expect(external()).toBe(before);
  });

  it("is not that of a mapped file", async () => {
    const path = join(folder, "file");
    writeFileSync(path, Buffer.alloc(16 * MB));
    await using d = new Device();
    await collect();
    const before = external();
    const file = new MappedFile(path);
    const t = d.mapped(file, 0, "u8", [16 * MB]);
    expect(external()).toBe(before);
    t.dispose();
    file.dispose();
    expect(external()).toBe(before);
  });
});

describe("a view", () => {
  const sizes: Readonly<Record<DType, number>> = { u8: 1, bf16: 2, f32: 4, i32: 4, f64: 8, i64: 8 };
  const dtypes = Object.keys(sizes) as DType[];
  const bytes = (t: Tensor, offset: number, dtype: DType, n: number) => () => t.handle.view(offset, dtypeCodes[dtype], [n]);
  const dtypeCodes: Readonly<Record<DType, number>> = { f32: 0, bf16: 1, i32: 2, i64: 3, f64: 4, u8: 5 };

  it("begins at an address that its dtype is aligned to, also in a view that begins elsewhere", () => {
    using d = new Device();
    const base = d.empty("u8", [64]);
    for (const start of [1, 2, 4, 6, 8, 12]) {
      const inner = base.view(start, [40]);
      for (const dtype of dtypes) {
        const view = bytes(inner, 0, dtype, 2);
        if (start % sizes[dtype] === 0) expect(view, `${dtype} at ${start}`).not.toThrow();
        else expect(view, `${dtype} at ${start}`).toThrow(/^view: byteOffset must be aligned to the dtype/);
      }
    }
    for (const dtype of dtypes)
      for (const offset of [1, 2, 4, 8]) {
        const view = bytes(base, offset, dtype, 2);
        if (offset % sizes[dtype] === 0) expect(view, `${dtype} at ${offset}`).not.toThrow();
        else expect(view, `${dtype} at ${offset}`).toThrow(`view: byteOffset must be a multiple of ${sizes[dtype]}`);
      }
  });

  it("ends inside its tensor, to the byte", () => {
    using d = new Device();
    const base = d.empty("f32", [4, 6]);
    expect(() => base.view(23, [1])).not.toThrow();
    expect(() => base.view(24, [0])).not.toThrow();
    expect(() => base.view(24, [1])).toThrow(/^view: shape must be inside the 96 bytes of the tensor/);
    expect(() => base.view(25, [0])).toThrow(KernelError);
    // The last row of a strided view needs its columns, not its stride.
    const strided = base.view(2, [4, 3], { ld: 6 });
    expect(() => strided.view(0, [4, 3], { ld: 6 })).not.toThrow();
    expect(() => strided.view(20, [1])).not.toThrow();
    expect(() => strided.view(21, [1])).toThrow(/inside the 84 bytes/);
    expect(() => strided.view(0, [4, 4], { ld: 6 })).toThrow(KernelError);
    expect(() => strided.view(1, [4, 3], { ld: 6 })).toThrow(KernelError);
    expect(() => base.view(0, [4, 3], { ld: 2 })).toThrow(/ld must be >= 3/);
    expect(() => base.view(0, [4, 3], { ld: 3 })).not.toThrow();
    // A row of a view is where it was in the buffer.
    expect(strided.rows(1, 3).shape).toEqual([2, 3]);
    expect(() => strided.rows(1, 4).view(14, [1])).not.toThrow();
    expect(() => strided.rows(1, 4).view(15, [1])).toThrow(KernelError);
  });

  it("is the same memory: values written on one side are read on the other, rows of views of views too", async () => {
    using d = new Device();
    const base = d.tensor(
      "f32",
      [4, 6],
      Array.from({ length: 24 }, (_, i) => i),
    );
    const columns = base.columns(2, 5);
    expect([...(await columns.readF32())]).toEqual([2, 3, 4, 8, 9, 10, 14, 15, 16, 20, 21, 22]);
    const row = columns.rows(2, 3);
    row.write([-1, -2, -3]);
    columns.rows(0, 2).columns(1, 3).write([100, 101, 102, 103]);
    const rows = [
      [0, 1, 2, 100, 101, 5],
      [6, 7, 8, 102, 103, 11],
      [12, 13, -1, -2, -3, 17],
      [18, 19, 20, 21, 22, 23],
    ];
    expect([...(await base.readF32())]).toEqual(rows.flat());
  });

  it("copies from a file into its own rows only", async () => {
    const path = join(folder, "rows");
    writeFileSync(
      path,
      Float32Array.from({ length: 16 }, (_, i) => 1 + i),
    );
    using d = new Device();
    const file = new MappedFile(path);
    const base = d.empty("f32", [3, 4]);
    base.columns(1, 3).copyFromMap(file, 8);
    expect([...(await base.readF32())]).toEqual([0, 3, 4, 0, 0, 5, 6, 0, 0, 7, 8, 0]);
    expect(() => base.copyFromMap(file, 16)).not.toThrow();
    expect(() => base.copyFromMap(file, 17)).toThrow(/^copyFromMap: byteOffset must be inside the file's 64 bytes/);
    expect([...(await base.readF32())]).toEqual([5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
    file.dispose();
  });
});

describe("memory stays while something uses it", () => {
  it("a view, a list or a queued op, after its tensor is gone", async () => {
    await using d = new Device({ threads: 1 });
    const base = d.tensor("f32", [4], [1, 2, 3, 4]);
    const view = base.view(1, [2]);
    const list = d.list([base.view(0, [2]), view]);
    base.dispose();
    const norm = d.empty("f64", [1]);
    ops.gradNorm(d, { grads: list, norm });
    list.dispose();
    expect((await norm.readF64())[0]).toBeCloseTo(Math.sqrt(1 + 4 + 4 + 9), 5);
    expect([...(await view.readF32())]).toEqual([2, 3]);
    const sum = d.empty("f32", [2]);
    ops.add(d, { a: view, b: view, y: sum, alpha: 1 });
    view.dispose();
    // What is given back may be taken again at once: it must not be that of the op above.
    for (let i = 0; i < 50; i++) d.tensor("f32", [4], [9, 9, 9, 9]).dispose();
    expect([...(await sum.readF32())]).toEqual([4, 6]);
  });

  it("the operands of ops that still wait", async () => {
    await using d = new Device({ kind: "ref", threads: 1 });
    const n = 160;
    const square = d.empty("f32", [n, n]);
    const slow = (): void => ops.gemm(d, "nt", { a: square, b: square, c: d.empty("f32", [n, n]) });
    const [y, norm] = [d.empty("f32", [4]), d.empty("f64", [1])];
    for (let i = 0; i < 10; i++) slow();
    const x = d.tensor("f32", [4], [1, 2, 3, 4]);
    ops.add(d, { a: x, b: x, y, alpha: 1 });
    x.dispose();
    const z = d.tensor("f32", [2], [3, 4]);
    const list = d.list([z]);
    z.dispose();
    ops.gradNorm(d, { grads: list, norm });
    list.dispose();
    const grad = d.tensor("f32", [3, 1], [1, 1, 1]);
    ops.maskGrad(d, { grad, keep: [1] });
    await collect();
    // Given back too early, their memory would be taken again here.
    const others = Array.from({ length: 64 }, () => d.tensor("f32", [4], [9, 9, 9, 9]));
    expect([...(await y.readF32())]).toEqual([2, 4, 6, 8]);
    expect((await norm.readF64())[0]).toBe(5);
    expect([...(await grad.readF32())]).toEqual([0, 1, 0]);
    expect(others).toHaveLength(64);
  });

  it.skipIf(process.platform !== "linux")("but not longer: memory, mappings and file handles are given back", async () => {
    const path = join(folder, "returned");
    writeFileSync(path, Buffer.alloc(64));
    const handles = (): number => readdirSync("/proc/self/fd").length;
    const mappings = (): number => readFileSync("/proc/self/maps", "utf8").split(path).length - 1;
    await using d = new Device();
    const [norm, before] = [d.empty("f64", [1]), handles()];
    for (let i = 0; i < 20; i++) {
      const file = new MappedFile(path);
      const t = d.mapped(file, 0, "f32", [16]);
      const list = d.list([t]);
      ops.gradNorm(d, { grads: list, norm });
      ops.add(d, { a: t, b: t, y: d.empty("f32", [16]), alpha: 1 });
      file.dispose();
      t.dispose();
      list.dispose();
    }
    for (let i = 0; i < 4; i++) await d.synchronize();
    expect(handles()).toBe(before);
    expect(mappings()).toBe(0);
    const resident = (): number => Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync("/proc/self/status", "utf8"))![1]);
    const start = resident();
    for (let i = 0; i < 40; i++) {
      const t = d.empty("f32", [4 * MB]);
      ops.fill(d, { x: t, value: 1 });
      t.dispose();
      await d.synchronize();
    }
    expect(resident() - start).toBeLessThan(160 * 1024); // of 640 MB
  });

  it("a new tensor is zero, whatever was there", async () => {
    await using d = new Device();
    for (const n of [1, 100, 5000, MB / 4, MB]) {
      for (let i = 0; i < 4; i++) {
        const t = d.empty("f32", [n]);
        ops.fill(d, { x: t, value: 7 });
        t.dispose();
        await d.synchronize();
      }
      expect(
        (await d.empty("f32", [n]).readF32()).every((x) => x === 0),
        `${n} elements`,
      ).toBe(true);
    }
  });

  it("a mapped file, after its handle and its tensor are gone", async () => {
    const path = join(folder, "kept");
    writeFileSync(path, Float32Array.of(3, 4));
    await using d = new Device();
    const file = new MappedFile(path);
    expect(file.bytes).toBe(8);
    const list = d.list([d.mapped(file, 0, "f32", [2])]);
    file.dispose();
    await collect();
    const norm = d.empty("f64", [1]);
    ops.gradNorm(d, { grads: list, norm });
    expect((await norm.readF64())[0]).toBe(5);
  });
});
