// Which experts tokens are routed to, counted on the device while a model runs: per layer and expert the routed slots (i64) and the
// sum of the gate weights (f64).
import type { RouteObserver } from "../model/layers/moe.ts";
import * as ops from "../ops.ts";
import type { Device, Tensor } from "../tensor.ts";
import type { ExpertLayout } from "./expert_set.ts";

/** One layer's sums, by expert. */
export interface ExpertSums {
  readonly counts: readonly number[];
  readonly gateSums: readonly number[];
}

/** Sums of every sparse layer. Layers lie one after the other in one tensor each; nothing is made per batch. */
export class ExpertCounts {
  readonly layout: ExpertLayout;
  private readonly device: Device;
  private readonly counts: Tensor;
  private readonly gates: Tensor;
  private readonly views = new Map<number, { readonly at: number; readonly counts: Tensor; readonly gateSums: Tensor }>();

  constructor(device: Device, layout: ExpertLayout) {
    this.device = device;
    this.layout = layout;
    const total = [...layout.values()].reduce((a, b) => a + b, 0);
    this.counts = device.empty("i64", [total]);
    this.gates = device.empty("f64", [total]);
    let at = 0;
    for (const [layer, E] of layout) {
      this.views.set(layer, { at, counts: this.counts.view(at, [E]), gateSums: this.gates.view(at, [E]) });
      at += E;
    }
  }

  /** Adds the routing of a batch in one layer: a forward's `onRoute`. */
  readonly observe: RouteObserver = (layer, ids, weights) => {
    const { counts, gateSums } = this.views.get(layer)!;
    ops.countExperts(this.device, { ids, weights, counts, gateSums });
  };

  /** Starts from zero. */
  reset(): void {
    ops.fill(this.device, { x: this.counts, value: 0 });
    ops.fill(this.device, { x: this.gates, value: 0 });
  }

  /** Goes on from sums that were read before. */
  write(sums: (layer: number) => ExpertSums): void {
    for (const [layer, { counts, gateSums }] of this.views) {
      const from = sums(layer);
      counts.write(BigInt64Array.from(from.counts, BigInt));
      gateSums.write(Float64Array.from(from.gateSums));
    }
  }

  /** The sums so far, by layer, once everything submitted before is done. */
  async read(): Promise<Map<number, ExpertSums>> {
    const [counts, gates] = await Promise.all([this.counts.readI64(), this.gates.readF64()]);
    return new Map(
      [...this.layout].map(([layer, E]) => {
        const { at } = this.views.get(layer)!;
        return [layer, { counts: Array.from(counts.subarray(at, at + E), Number), gateSums: [...gates.subarray(at, at + E)] }];
      }),
    );
  }

  dispose(): void {
    for (const { counts, gateSums } of this.views.values()) {
      counts.dispose();
      gateSums.dispose();
    }
    this.counts.dispose();
    this.gates.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}
