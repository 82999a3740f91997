// AdamW over the compact training state, with global-norm clipping on the device: no value travels to the host between the
// gradients and the update.

import * as ops from "../ops.ts";
import type { Device, Tensor } from "../tensor.ts";
import { TensorList } from "../tensor.ts";
import type { TrainingState } from "../model/weights/training_state.ts";
import type { OptimizerOptions } from "../options.ts";

/** What of the options an update needs beside its learning rate. */
type AdamWOptions = Pick<OptimizerOptions, "beta1" | "beta2" | "eps" | "weightDecay" | "clipNorm">;

export class AdamW {
  private readonly options: AdamWOptions;
  private readonly device: Device;
  private readonly norm: Tensor;
  /** Learning rate and number of the update, read on the device: a recorded graph takes those of its launch. */
  private readonly rates: Tensor;
  private readonly grads: TensorList;
  private readonly groups: readonly Group[];
  /** Updates done, for the bias correction. */
  steps = 0;

  constructor(device: Device, state: TrainingState, options: AdamWOptions) {
    this.device = device;
    this.options = options;
    this.norm = device.empty("f64", [1]);
    this.rates = device.empty("f64", [2]);
    this.grads = new TensorList(
      activeRuns(state).map(([from, to]) => (to - from === state.size ? state.grad : state.grad.view(from, [to - from]))),
    );
    this.groups = groupsOf(state);
  }

  /** Clips and updates; the norm (before clipping) is read by `readNorm`. A non-finite norm leaves everything as it was. */
  step(lr: number): void {
    this.prepare(lr);
    this.update();
  }

  /** The first half of `step`: sends what changes from update to update. */
  prepare(lr: number): void {
    this.steps++;
    this.rates.write([lr, this.steps]);
  }

  /** The second half: submits ops and nothing else, so that it can be recorded (Device.capture). */
  update(): void {
    const { beta1, beta2, eps, weightDecay, clipNorm } = this.options;
    ops.gradNorm(this.device, { grads: this.grads, norm: this.norm });
    for (const group of this.groups)
      ops.adamw(this.device, { ...group, norm: this.norm, rates: this.rates, maxNorm: clipNorm, beta1, beta2, eps, weightDecay });
  }

  async readNorm(): Promise<number> {
    return (await this.norm.readF64())[0]!;
  }

  dispose(): void {
    this.norm.dispose();
    this.rates.dispose();
    this.grads.dispose();
    for (const group of this.groups) for (const list of Object.values(group) as TensorList[]) list.dispose();
  }
}

/** The operands of one adamw call. */
interface Group {
  readonly params: TensorList;
  readonly grads: TensorList;
  readonly m: TensorList;
  readonly v: TensorList;
  readonly copies?: TensorList;
}

/** Stretches [from, to) of the flat tensors that train, padding included: one where all of it does. */
function activeRuns({ parameters, offsets, size }: TrainingState): [number, number][] {
  const runs: [number, number][] = [];
  parameters.forEach((p, i) => {
    if (!p.trains) return;
    const [from, to] = [offsets[i]!, offsets[i + 1] ?? size];
    const last = runs.at(-1);
    if (last?.[1] === from) last[1] = to;
    else runs.push([from, to]);
  });
  return runs;
}

/**
 * One call over the flat tensors where masters are what the model computes with; else working copies are refreshed, one by one. What does
 * not train now is in none.
 */
function groupsOf(state: TrainingState): Group[] {
  const { master, grad, m, v, parameters, offsets } = state;
  const lists = (pick: (flat: Tensor) => readonly Tensor[]): Group => ({
    params: new TensorList(pick(master)),
    grads: new TensorList(pick(grad)),
    m: new TensorList(pick(m)),
    v: new TensorList(pick(v)),
  });
  const active = parameters.flatMap((p, i) => (p.trains ? [i] : []));
  const copied = active.filter((i) => parameters[i]!.value !== parameters[i]!.master);
  if (copied.length === 0 && active.length === parameters.length) return [lists((flat) => [flat])];
  if (copied.length === 0) return [lists((flat) => activeRuns(state).map(([from, to]) => flat.view(from, [to - from])))];
  const own = active.filter((i) => parameters[i]!.value === parameters[i]!.master);
  const views = (indices: readonly number[]) => (flat: Tensor) => indices.map((i) => flat.view(offsets[i]!, parameters[i]!.shape));
  const copies = new TensorList(copied.map((i) => parameters[i]!.value));
  return [{ ...lists(views(copied)), copies }, ...(own.length > 0 ? [lists(views(own))] : [])];
}
