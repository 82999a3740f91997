// cos and sin of the rotary angles for positions 0 … P−1, in f32 as the families' reference computes them: the angle is the
// f32 product position · inverse frequency. Tables are made when a batch is staged; layers hold handles.

import type { Device, Tensor } from "../tensor.ts";
import type { RopeSpec } from "./spec.ts";

export interface RopeTable {
  readonly cos: Tensor;
  readonly sin: Tensor;
}

/** Which of a model's tables. */
export interface RopeHandle {
  readonly index: number;
}

/** The distinct rotary embeddings of a model, numbered in the order in which its layers ask for them. */
export class RopeIndex {
  readonly specs: RopeSpec[] = [];

  handle(spec: RopeSpec): RopeHandle {
    let index = this.specs.findIndex((s) => sameAngles(s, spec));
    if (index < 0) index = this.specs.push(spec) - 1;
    return { index };
  }
}

/** Equal tables: the pairing of the columns (interleaved) is the op's business. */
function sameAngles(a: RopeSpec, b: RopeSpec): boolean {
  const [x, y] = [a.inverseFrequencies, b.inverseFrequencies];
  return a === b || (a.factor === b.factor && x.length === y.length && x.every((f, i) => f === y[i]));
}

/** The tables of a RopeIndex on a device, grown on demand. */
export class RopeTables {
  private readonly device: Device;
  private readonly specs: readonly RopeSpec[];
  private tables: RopeTable[] = [];
  private positions = 0;

  constructor(device: Device, specs: readonly RopeSpec[]) {
    this.device = device;
    this.specs = specs;
  }

  /** All tables, for positions below `positions` at least. */
  upTo(positions: number): readonly RopeTable[] {
    if (positions <= this.positions) return this.tables;
    const P = Math.max(positions, this.positions * 2, 64);
    this.dispose();
    this.tables = this.specs.map((spec) => makeTable(this.device, spec, P));
    this.positions = P;
    return this.tables;
  }

  dispose(): void {
    for (const { cos, sin } of this.tables) {
      cos.dispose();
      sin.dispose();
    }
    this.tables = [];
    this.positions = 0;
  }
}

function makeTable(device: Device, spec: RopeSpec, P: number): RopeTable {
  const half = spec.inverseFrequencies.length;
  const cos = new Float32Array(P * half);
  const sin = new Float32Array(P * half);
  for (let t = 0; t < P; t++)
    for (let i = 0; i < half; i++) {
      const angle = Math.fround(t * spec.inverseFrequencies[i]!);
      cos[t * half + i] = Math.fround(Math.cos(angle)) * spec.factor;
      sin[t * half + i] = Math.fround(Math.sin(angle)) * spec.factor;
    }
  return { cos: device.tensor("f32", [P, half], cos), sin: device.tensor("f32", [P, half], sin) };
}
