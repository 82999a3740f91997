// cos and sin of the rotary angles for positions 0 … P−1, in f32 as the families' reference computes them: the angle is the
// f32 product position · inverse frequency.

import type { Device, Tensor } from "../../tensor.ts";
import type { RopeSpec } from "../spec.ts";

export interface RopeTable {
  readonly cos: Tensor;
  readonly sin: Tensor;
}

/** Tables per RopeSpec, grown on demand. */
export class RopeTables {
  private readonly device: Device;
  private readonly tables = new Map<string, RopeTable & { positions: number }>();

  constructor(device: Device) {
    this.device = device;
  }

  get(spec: RopeSpec, positions: number): RopeTable {
    const key = `${spec.factor} ${spec.inverseFrequencies.join()}`;
    const cached = this.tables.get(key);
    if (cached && cached.positions >= positions) return cached;
    cached?.cos.dispose();
    cached?.sin.dispose();
    const P = Math.max(positions, (cached?.positions ?? 0) * 2, 64);
    const half = spec.inverseFrequencies.length;
    const cos = new Float32Array(P * half);
    const sin = new Float32Array(P * half);
    for (let t = 0; t < P; t++)
      for (let i = 0; i < half; i++) {
        const angle = Math.fround(t * spec.inverseFrequencies[i]!);
        cos[t * half + i] = Math.fround(Math.cos(angle)) * spec.factor;
        sin[t * half + i] = Math.fround(Math.sin(angle)) * spec.factor;
      }
    const table = {
      cos: this.device.tensor("f32", [P, half], cos),
      sin: this.device.tensor("f32", [P, half], sin),
      positions: P,
    };
    this.tables.set(key, table);
    return table;
  }

  dispose(): void {
    for (const t of this.tables.values()) {
      t.cos.dispose();
      t.sin.dispose();
    }
    this.tables.clear();
  }
}
