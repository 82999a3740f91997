// AdamW over the compact training state, with global-norm clipping on the device: no value travels to the host between the
// gradients and the update.

import * as ops from "../ops.ts";
import type { Device, Tensor } from "../tensor.ts";
import { TensorList } from "../tensor.ts";
import type { TrainingState } from "../model/parameters.ts";

export interface AdamWOptions {
  readonly beta1: number;
  readonly beta2: number;
  readonly eps: number;
  readonly weightDecay: number;
  /** Global norm to clip to; 0 = no clipping. */
  readonly clipNorm: number;
}

export class AdamW {
  readonly options: AdamWOptions;
  private readonly device: Device;
  private readonly state: TrainingState;
  private readonly norm: Tensor;
  private readonly lists: { params: TensorList; grads: TensorList; m: TensorList; v: TensorList };
  /** Updates done, for the bias correction. */
  steps = 0;

  constructor(device: Device, state: TrainingState, options: AdamWOptions) {
    this.device = device;
    this.state = state;
    this.options = options;
    this.norm = device.empty("f64", [1]);
    this.lists = {
      params: new TensorList([state.master]),
      grads: new TensorList([state.grad]),
      m: new TensorList([state.m]),
      v: new TensorList([state.v]),
    };
  }

  zeroGrad(): void {
    ops.fill(this.device, { x: this.state.grad, value: 0 });
  }

  /** Clips and updates; the norm (before clipping) is read by `readNorm`. A non-finite norm leaves everything as it was. */
  step(lr: number): void {
    this.steps++;
    const { beta1, beta2, eps, weightDecay, clipNorm } = this.options;
    ops.gradNorm(this.device, { grads: this.lists.grads, norm: this.norm });
    ops.adamw(this.device, {
      ...this.lists,
      norm: this.norm,
      maxNorm: clipNorm,
      lr,
      beta1,
      beta2,
      eps,
      weightDecay,
      step: this.steps,
    });
  }

  async readNorm(): Promise<number> {
    return (await this.norm.readF64())[0]!;
  }

  dispose(): void {
    this.norm.dispose();
    for (const list of Object.values(this.lists)) list.dispose();
  }
}
