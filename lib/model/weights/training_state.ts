// The compact training state: f32 master copies, gradients and the two AdamW moments of what trains, one flat tensor each. Its
// size follows what trains; nothing exists for the rest.

import { DisposedError, MemoryError } from "../../errors.ts";
import type { Device, Tensor } from "../../tensor.ts";
import type { Parameter } from "./parameter.ts";

/** f32 master, gradient and two moments. */
export const STATE_BYTES_PER_PARAMETER = 16;

const PAD = 16; // elements: one cache line of f32, so that every parameter's view is aligned

/** The flat training state of the parameters that train. */
export interface TrainingState {
  readonly parameters: readonly Parameter[];
  readonly offsets: readonly number[];
  /** Elements, padding included. */
  readonly size: number;
  readonly master: Tensor;
  readonly grad: Tensor;
  /** Of each parameter. */
  readonly gradients: readonly Tensor[];
  readonly m: Tensor;
  readonly v: Tensor;
}

/** Takes the memory and gives every parameter its views; values are the caller's to fill. @throws MemoryError · DisposedError */
export function allocateState(device: Device, parameters: readonly Parameter[]): TrainingState {
  const offsets: number[] = [];
  let size = 0;
  for (const p of parameters) {
    offsets.push(size);
    size += Math.ceil(p.shape.reduce((a, b) => a * b, 1) / PAD) * PAD;
  }
  const flat: Tensor[] = [];
  try {
    for (let i = 0; i < 4; i++) flat.push(device.empty("f32", [size]));
  } catch (error) {
    for (const t of flat) t.dispose();
    if (error instanceof DisposedError) throw error;
    throw new MemoryError(
      `training state: ${((size * STATE_BYTES_PER_PARAMETER) / 2 ** 30).toFixed(2)} GiB for ${size} parameters (master, gradient, two moments) could not be allocated; ` +
        `train fewer experts (smaller p, maxTrainableParams), or use a machine with more memory`,
      { cause: error },
    );
  }
  const [master, grad, m, v] = flat as [Tensor, Tensor, Tensor, Tensor];
  const gradients = parameters.map((p, i) => grad.view(offsets[i]!, p.shape));
  parameters.forEach((p, i) => {
    p.master = master.view(offsets[i]!, p.shape);
  });
  const state = { parameters, offsets, size, master, grad, gradients, m, v };
  activate(state, () => true);
  return state;
}

/** Which of them train from here on; the others keep their masters, and no gradient is made for them. */
export function activate({ parameters, gradients }: TrainingState, trains: (p: Parameter) => boolean): void {
  parameters.forEach((p, i) => {
    p.trains = trains(p);
    p.grad = p.trains ? gradients[i]! : null;
  });
}

/** Gives the memory back; what the parameters compute with is the caller's to restore. */
export function releaseState(state: TrainingState): void {
  for (const p of state.parameters) {
    p.master!.dispose();
    p.master = null;
    p.grad = null;
    p.trains = false;
  }
  for (const t of [...state.gradients, state.master, state.grad, state.m, state.v]) t.dispose();
}
