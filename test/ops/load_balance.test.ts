// Gradient of the load-balancing loss: the kernel against the reference, the reference against finite differences of the formula,
// bits against threads, refusals. No GPU. Alone: npx vitest run test/ops/load_balance.test.ts

import { describe, expect, it } from "vitest";
import { loadBalance } from "../../lib/ops.ts";
import { Device } from "../../lib/tensor.ts";
import { normals } from "../support/tiny_model.ts";

function inputs(T: number, E: number, K: number) {
  const normal = normals(T * 100 + E);
  const logits = Float64Array.from({ length: T * E }, normal);
  const counts = Array.from({ length: E }, () => 0);
  for (let i = 0; i < T * K; i++) counts[Math.floor(Math.abs(normal()) * E) % E]!++;
  const offsets = [0];
  for (const c of counts) offsets.push(offsets.at(-1)! + c);
  return { logits, offsets };
}
function softmax(logits: Float64Array, E: number): Float32Array {
  const out = new Float32Array(logits.length);
  for (let t = 0; t < logits.length; t += E) {
    const row = logits.subarray(t, t + E);
    const max = Math.max(...row);
    const sum = row.reduce((s, x) => s + Math.exp(x - max), 0);
    row.forEach((x, e) => (out[t + e] = Math.exp(x - max) / sum));
  }
  return out;
}
/** E · Σ f_e · P_e. */
function lossOf(logits: Float64Array, offsets: readonly number[], T: number, E: number): number {
  const probs = softmax(logits, E);
  let loss = 0;
  for (let e = 0; e < E; e++) {
    let mean = 0;
    for (let t = 0; t < T; t++) mean += probs[t * E + e]! / T;
    loss += (E * (offsets[e + 1]! - offsets[e]!) * mean) / offsets[E]!;
  }
  return loss;
}
async function run(kind: "cpu" | "ref", threads: number, T: number, E: number, K: number, coefficient: number) {
  const device = new Device({ kind, threads });
  const { logits, offsets } = inputs(T, E, K);
  const probs = device.tensor("f32", [T, E], softmax(logits, E));
  const dlogits = device.tensor("f32", [T, E], new Float32Array(T * E).fill(0.5));
  const loss = device.empty("f64", [1]);
  loadBalance(device, { probs, offsets: device.tensor("i32", [E + 1], offsets), dlogits, loss, coefficient });
  const result = { d: await dlogits.readF32(), loss: (await loss.readF64())[0]!, logits, offsets };
  device.dispose();
  return result;
}

describe("load_balance", () => {
  it.each([
    [1, 4, 2],
    [7, 8, 2],
    [300, 33, 4],
    [1000, 64, 6],
  ])("T %i, E %i, K %i: cpu equals the reference on 1 and 3 threads", async (T, E, K) => {
    const ref = await run("ref", 1, T, E, K, 0.3);
    const one = await run("cpu", 1, T, E, K, 0.3);
    const three = await run("cpu", 3, T, E, K, 0.3);
    expect(Buffer.compare(Buffer.from(one.d.buffer), Buffer.from(three.d.buffer))).toBe(0);
    expect(one.loss).toBe(three.loss);
    ref.d.forEach((x, i) => expect(Math.abs(one.d[i]! - x)).toBeLessThan(1e-6));
    expect(Math.abs(one.loss / ref.loss - 1)).toBeLessThan(1e-6);
  });

  it("is the gradient of the loss and adds to what is there", async () => {
    const [T, E] = [5, 6];
    const { d, loss, logits, offsets } = await run("ref", 1, T, E, 2, 1 / T);
    expect(loss).toBeCloseTo(lossOf(logits, offsets, T, E), 6);
    for (let i = 0; i < T * E; i++) {
      const step = 1e-4;
      const up = Float64Array.from(logits);
      const down = Float64Array.from(logits);
      up[i]! += step;
      down[i]! -= step;
      const slope = (lossOf(up, offsets, T, E) - lossOf(down, offsets, T, E)) / (2 * step);
      expect(Math.abs(d[i]! - 0.5 - slope)).toBeLessThan(2e-3 * Math.max(1, Math.abs(slope)) * 0.5);
    }
  });

  it("refuses offsets that do not fit the experts", () => {
    const device = new Device({ kind: "cpu", threads: 1 });
    const t = (shape: number[]) => device.empty("f32", shape);
    expect(() => loadBalance(device, { probs: t([3, 4]), offsets: device.empty("i32", [4]), dlogits: t([3, 4]), coefficient: 1 })).toThrow(
      /load_balance: offsets/,
    );
    expect(() => loadBalance(device, { probs: t([3, 5]), offsets: device.empty("i32", [5]), dlogits: t([3, 4]), coefficient: 1 })).toThrow(
      /load_balance: probs/,
    );
    device.dispose();
  });
});
