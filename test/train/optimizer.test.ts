// AdamW over the training state, against a plain loop in f64; parameters with copies of their own against the flat ones.
// No GPU. Alone: npx vitest run test/train/optimizer.test.ts

import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Parameter } from "../../lib/model/weights/parameter.ts";
import type { TrainingState } from "../../lib/model/weights/training_state.ts";
import { AdamW } from "../../lib/train/optimizer.ts";
import { Device } from "../../lib/tensor.ts";
import { normals } from "../support/tiny_model.ts";

let device: Device;
beforeAll(() => void (device = new Device({ kind: "cpu", threads: 1 })));
afterAll(() => device.dispose());

const SHAPES = [[16], [4, 8], [16]] as const;
const OFFSETS = [0, 16, 48] as const;
const SIZE = 64;
const options = { beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.1, clipNorm: 1 };

/** Parameters over flat tensors; those in `copied` compute with a bf16 copy. */
function stateOf(
  copied: readonly number[] = [],
): TrainingState & { readonly copies: ReadonlyMap<number, { readF32(): Promise<Float32Array> }> } {
  const normal = normals(3);
  const [master, grad, m, v] = [Float32Array.from({ length: SIZE }, normal), new Float32Array(SIZE), new Float32Array(SIZE), new Float32Array(SIZE)].map((x) => device.tensor("f32", [SIZE], x)); // prettier-ignore
  const copies = new Map(copied.map((i) => [i, device.empty("bf16", SHAPES[i]!)] as const));
  const parameters = SHAPES.map((shape, i) => {
    const own = master!.view(OFFSETS[i]!, shape);
    return {
      key: `p${i}`,
      shape,
      trains: true,
      master: own,
      grad: grad!.view(OFFSETS[i]!, shape),
      value: copies.get(i) ?? own,
    } as unknown as Parameter;
  });
  return { parameters, offsets: OFFSETS, size: SIZE, master: master!, grad: grad!, gradients: [], m: m!, v: v!, copies };
}
const gradients = (step: number): Float32Array => Float32Array.from({ length: SIZE }, normals(50 + step));

/** A plain loop. */
function reference(steps: readonly { grad: Float32Array; lr: number }[], start: Float32Array, o = options): Float64Array {
  const [p, m, v] = [Float64Array.from(start), new Float64Array(SIZE), new Float64Array(SIZE)];
  steps.forEach(({ grad, lr }, i) => {
    const norm = Math.hypot(...grad);
    const scale = o.clipNorm > 0 && norm > o.clipNorm ? o.clipNorm / norm : 1;
    for (let j = 0; j < SIZE; j++) {
      const g = grad[j]! * scale;
      m[j] = o.beta1 * m[j]! + (1 - o.beta1) * g;
      v[j] = o.beta2 * v[j]! + (1 - o.beta2) * g * g;
      const [mh, vh] = [m[j]! / (1 - o.beta1 ** (i + 1)), v[j]! / (1 - o.beta2 ** (i + 1))];
      p[j]! -= lr * (mh / (Math.sqrt(vh) + o.eps) + o.weightDecay * p[j]!);
    }
  });
  return p;
}

async function run(state: TrainingState, o = options): Promise<{ norms: number[]; master: Float32Array; optimizer: AdamW }> {
  const optimizer = new AdamW(device, state, o);
  const norms: number[] = [];
  for (let step = 0; step < 4; step++) {
    state.grad.write(gradients(step));
    optimizer.step(0.1 / (step + 1));
    norms.push(await optimizer.readNorm());
  }
  return { norms, master: await state.master.readF32(), optimizer };
}
const steps = [0, 1, 2, 3].map((step) => ({ grad: gradients(step), lr: 0.1 / (step + 1) }));

describe("AdamW", () => {
  it.each([
    ["clipped", options],
    ["not clipped", { ...options, clipNorm: 0 }],
    ["other factors", { beta1: 0.5, beta2: 0.7, eps: 0.1, weightDecay: 0, clipNorm: 3 }],
  ])("is the plain loop, %s", async (_, o) => {
    const state = stateOf();
    const start = await state.master.readF32();
    const { norms, master, optimizer } = await run(state, o);
    reference(steps, start, o).forEach((x, i) => expect(master[i], `element ${i}`).toBeCloseTo(x, 5));
    norms.forEach((norm, i) => expect(norm).toBeCloseTo(Math.hypot(...gradients(i)), 4)); // before clipping
    expect(optimizer.steps).toBe(4);
    optimizer.dispose();
  });

  it.each([[[1]], [[0, 2]], [[0, 1, 2]]])(
    "refreshes the copies that parameters %j compute with, and changes no bit of the masters",
    async (copied) => {
      const plain = await run(stateOf());
      const state = stateOf(copied);
      const { master, norms, optimizer } = await run(state);
      expect([master, norms]).toEqual([plain.master, plain.norms]);
      for (const i of copied) {
        const copy = await state.copies.get(i)!.readF32();
        copy.forEach((x, j) => expect(Math.abs(x - master[OFFSETS[i]! + j]!)).toBeLessThanOrEqual(Math.abs(x) / 128));
      }
      optimizer.dispose();
    },
  );

  it("gives its memory back", () => {
    const optimizer = new AdamW(device, stateOf([1]), options);
    optimizer.dispose();
    expect(() => optimizer.step(0.1)).toThrow(/disposed/);
  });
});
