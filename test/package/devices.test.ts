// Devices side by side, the instruction set override, arrays handed over while they are used, the event loop, load errors.

import { afterEach, expect, it, vi } from "vitest";
import { Worker } from "node:worker_threads";
import { fileURLToPath } from "node:url";
import { KernelError } from "../../lib/errors.ts";
import { native } from "../../lib/native.ts";
import { gemm } from "../../lib/ops.ts";
import { Device, tensorsMade } from "../../lib/tensor.ts";

const programs = fileURLToPath(new URL("programs/", import.meta.url));

afterEach(() => {
  vi.unstubAllEnvs();
  vi.resetModules();
});

it("four worker threads use the addon at once", async () => {
  const source = `
    const { native, submitProducts } = require(${JSON.stringify(`${programs}addon.cjs`)});
    const device = new native.Device("cpu", 2);
    submitProducts(device, 96, 20).read().then((b) => { device.dispose(); require("worker_threads").parentPort.postMessage(new Float32Array(b)[5]); });`;
  const results = await Promise.all(
    Array.from({ length: 4 }, () => {
      const worker = new Worker(source, { eval: true });
      return new Promise<number>((resolve, reject) => worker.once("message", resolve).once("error", reject));
    }),
  );
  expect(results).toEqual([96, 96, 96, 96]);
});

it("every instruction set of this machine can be asked for, an unknown one is refused with the list", () => {
  for (const isa of native.instructionSets) {
    vi.stubEnv("ESFT_ISA", isa);
    using device = new Device({ threads: 1 });
    expect(device.info.instructionSet).toBe(isa);
  }
  vi.stubEnv("ESFT_ISA", "mmx");
  const open = (): Device => new Device({ threads: 1 });
  expect(open).toThrow(KernelError);
  expect(open).toThrow(/ESFT_ISA.*baseline.*mmx/);
});

it("two devices compute side by side and refuse each other's tensors", async () => {
  using a = new Device({ threads: 1 });
  using b = new Device({ kind: "ref" });
  const products = [a, b].map((device) => {
    const x = device.tensor("f32", [2, 3], [1, 2, 3, 4, 5, 6]);
    const c = device.empty("f32", [2, 2]);
    gemm(device, "nt", { a: x, b: x, c });
    return { x, c };
  });
  for (const { c } of products) expect([...(await c.readF32())]).toEqual([14, 32, 32, 77]);
  expect(() => gemm(a, "nt", { a: products[0]!.x, b: products[1]!.x, c: products[0]!.c })).toThrow(/b .*same device/);
});

it("tensors are counted as they are made, views too", () => {
  using device = new Device({ threads: 1 });
  const before = tensorsMade();
  const x = device.empty("f32", [4, 6]);
  x.rows(1, 3).columns(0, 2);
  device.list([x]);
  expect(() => x.view(0, [25])).toThrow(KernelError);
  expect(tensorsMade() - before).toBe(3);
});

it("an array given to write() may be transferred or changed at once", async () => {
  using device = new Device({ threads: 1 });
  const n = 1 << 18;
  const transferred = new Float32Array(n).fill(3);
  const changed = new Float32Array(n).fill(4);
  const a = device.empty("f32", [n]);
  const b = device.empty("f32", [n]);
  a.write(transferred);
  structuredClone(transferred.buffer, { transfer: [transferred.buffer] });
  expect(transferred.length).toBe(0);
  b.write(changed);
  changed.fill(5);
  expect((await a.readF32()).every((x) => x === 3)).toBe(true);
  expect((await b.readF32()).every((x) => x === 4)).toBe(true);
  expect(() => a.write(transferred)).toThrow(/write: data .*1048576 bytes.*0 bytes/);
});

it("the event loop runs while a device works", async () => {
  using device = new Device({ kind: "ref" });
  const n = 256;
  const x = device.tensor("f32", [n, n], new Float32Array(n * n).fill(1));
  const c = device.empty("f32", [n, n]);
  const started = performance.now();
  for (let i = 0; i < 15; i++) gemm(device, "nt", { a: x, b: x, c });
  const submitted = performance.now() - started;
  let ticks = 0;
  const timer = setInterval(() => ticks++, 2);
  expect((await c.readF32())[0]).toBe(n);
  clearInterval(timer);
  const took = performance.now() - started;
  expect(submitted).toBeLessThan(took / 4);
  expect(ticks).toBeGreaterThan(took / 100); // a tick per 2 ms is due; a blocked loop has one
  expect(ticks).toBeGreaterThan(3);
});

it.each([
  ["a file that is not there", "/nowhere/esft.node"],
  ["a file that is no addon", fileURLToPath(import.meta.url)],
])("%s as the addon: the error names platform, Node, place and remedies", async (_, file) => {
  vi.stubEnv("ESFT_NATIVE", file);
  vi.resetModules();
  const failure: unknown = await import("../../lib/native.ts").then(
    () => undefined,
    (error: unknown) => error,
  );
  expect(failure).toMatchObject({ name: "KernelError" });
  const { message } = failure as Error;
  for (const part of [process.platform, process.version, file, "unset ESFT_NATIVE", "npm run build:native", "Cause: "])
    expect(message).toContain(part);
});
