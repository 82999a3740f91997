// Share of routed slots that meet a trained expert, counted where routing happens.

import { sliceKey } from "../files/slice.ts";
import type { RouteObserver } from "../model/layers/moe.ts";
import type { Transformer } from "../model/transformer.ts";
import { moeLayers, moeOf } from "../model/spec.ts";
import * as ops from "../ops.ts";
import type { Tensor } from "../tensor.ts";

export class Coverage {
  private readonly model: Transformer;
  private readonly layers: number[];
  private readonly rowOf: Map<number, number>;
  private readonly experts: number;
  private readonly counts: Tensor;
  private readonly gates: Tensor;
  private readonly trained: boolean[];

  /** Null when no routed expert is frozen: coverage would always be 1. */
  static of(model: Transformer): Coverage | null {
    const layers = moeLayers(model.spec);
    const frozen = layers.some((l) => moeOf(model.spec, l)!.experts.some((e) => model.params.byName(sliceKey(e.down))?.master === null));
    return frozen ? new Coverage(model, layers) : null;
  }

  private constructor(model: Transformer, layers: number[]) {
    this.model = model;
    this.layers = layers;
    this.rowOf = new Map(layers.map((l, i) => [l, i]));
    this.experts = Math.max(...layers.map((l) => moeOf(model.spec, l)!.experts.length));
    this.counts = model.device.empty("i64", [layers.length, this.experts]);
    this.gates = model.device.empty("f64", [layers.length, this.experts]);
    this.trained = layers.flatMap((l) => {
      const experts = moeOf(model.spec, l)!.experts;
      return Array.from({ length: this.experts }, (_, e) => experts[e] !== undefined && model.params.get(experts[e].down).trains);
    });
  }

  readonly observe: RouteObserver = (layer, ids, weights) => {
    const row = this.rowOf.get(layer)!;
    const E = moeOf(this.model.spec, layer)!.experts.length;
    ops.countExperts(this.model.device, {
      ids,
      weights,
      counts: this.counts.view(row * this.experts, [E]),
      gateSums: this.gates.view(row * this.experts, [E]),
    });
  };

  reset(): void {
    ops.fill(this.model.device, { x: this.counts, value: 0 });
  }

  async read(): Promise<number> {
    const counts = await this.counts.readI64();
    let hit = 0;
    let all = 0;
    counts.forEach((c, i) => {
      all += Number(c);
      if (this.trained[i]) hit += Number(c);
    });
    return all === 0 ? 0 : hit / all;
  }

  dispose(): void {
    this.counts.dispose();
    this.gates.dispose();
  }
}
