// Re-allocation of ranks while a run goes on (methods/reallocation.ts says by which rule): what each expert is to its layer is averaged over
// the updates, and every so often columns of its low-rank terms go from one expert to another, with their moments.
//
// The averages are f64 on the host, in a fixed order; what is read of the device is small. Columns are moved on the host, a matrix at a time.

import { LayoutError } from "../errors.ts";
import { ExpertCounts } from "../experts/counting.ts";
import { expertLayout } from "../experts/expert_set.ts";
import { compact, contributions, grow, keptColumns } from "../methods/rank_columns.ts";
import type { Columns } from "../methods/rank_columns.ts";
import { isDue, movesOf } from "../methods/reallocation.ts";
import type { RankedMatrix, ReallocationPlan } from "../methods/reallocation.ts";
import type { RouteObserver } from "../model/layers/moe.ts";
import type { Transformer } from "../model/transformer.ts";
import type { TrainingState } from "../model/weights/training_state.ts";
import type { RankSummary, ReallocationState, Reallocated } from "./reallocation_state.ts";
import * as ops from "../ops.ts";
import { TensorList } from "../tensor.ts";
import type { Tensor } from "../tensor.ts";

export class Reallocator {
  /** A forward's `onRoute`. */
  readonly observe: RouteObserver;
  private readonly plan: ReallocationPlan;
  private readonly model: Transformer;
  private readonly flat: TrainingState;
  private readonly counts: ExpertCounts;
  /** Of dr: the gradients of each expert, and their norms, one f64 each. */
  private readonly norms: { readonly all: Tensor; readonly each: readonly { readonly grads: TensorList; readonly norm: Tensor }[] } | null;
  private readonly place: ReadonlyMap<string, number>;
  private gate: Map<number, number[]>;
  private gradient: Map<number, number[]>;
  private ranks: Map<number, number[]>;
  private history: ReallocationState["history"] = [];

  constructor(model: Transformer, flat: TrainingState, plan: ReallocationPlan) {
    this.plan = plan;
    this.model = model;
    this.flat = flat;
    this.place = new Map(flat.parameters.map((p, i) => [p.key, i]));
    this.counts = new ExpertCounts(model.device, expertLayout(model.spec));
    this.observe = this.counts.observe;
    const filled = (value: number) => new Map([...plan.layers].map(([layer, experts]) => [layer, experts.map(() => value)]));
    [this.gate, this.gradient, this.ranks] = [filled(0), filled(0), filled(plan.rank)];
    this.norms = plan.kind === "dr" ? this.prepareNorms() : null;
  }

  private prepareNorms(): Reallocator["norms"] {
    const experts = [...this.plan.layers.values()].flat();
    const all = this.model.device.empty("f64", [experts.length]);
    const gradient = (key: string): Tensor => this.model.params.attached(key).grad!;
    const each = experts.map(({ matrices }, i) => ({
      grads: new TensorList(matrices.flatMap(({ a, b }) => [gradient(a), gradient(b)])),
      norm: all.view(i, [1]),
    }));
    return { all, each };
  }

  /** Before the passes of an update. */
  reset(): void {
    this.counts.reset();
  }

  /** After them, before the update: submits the norms of the gradients. */
  submit(): void {
    for (const { grads, norm } of this.norms?.each ?? []) ops.gradNorm(this.model.device, { grads, norm });
  }

  /** What the passes of an update gave; `average` takes it where the update was made. */
  async read(): Promise<Sums> {
    const [gates, norms = null] = await Promise.all([this.counts.read(), this.norms?.all.readF64()]);
    return { gates: new Map([...gates].map(([layer, { gateSums }]) => [layer, gateSums])), norms };
  }

  average({ gates, norms }: Sums, tokens: number): void {
    const { decay, layers } = this.plan;
    const towards = (average: number, value: number): number => decay * average + (1 - decay) * value;
    let at = 0;
    for (const [layer, experts] of layers) {
      const [gate, gradient, ranks] = [this.gate.get(layer)!, this.gradient.get(layer)!, this.ranks.get(layer)!];
      experts.forEach(({ expert }, i) => {
        gate[i] = towards(gate[i]!, gates.get(layer)![expert]! / tokens);
        if (norms) gradient[i] = towards(gradient[i]!, ranks[i]! > 0 ? norms[at]! / Math.sqrt(ranks[i]!) : 0);
        at++;
      });
    }
  }

  /** Is one due after so many updates, and not done yet? */
  due(updates: number): boolean {
    return isDue(this.plan, updates) && !this.done(updates);
  }
  /** Was the last one made after so many updates? */
  done(updates: number): boolean {
    return this.history.at(-1)?.step === updates;
  }

  /** Before the next update. @param step updates done */
  async reallocate(step: number): Promise<Reallocated> {
    let columns = 0;
    const importance = new Map<number, number[]>();
    for (const [layer, experts] of this.plan.layers) {
      const [gate, gradient, ranks] = [this.gate.get(layer)!, this.gradient.get(layer)!, this.ranks.get(layer)!];
      const scores = this.norms ? gate.map((g, i) => g * gradient[i]!) : [...gate];
      importance.set(layer, scores);
      for (const { from, to, columns: n } of movesOf(scores, ranks, this.plan)) {
        await this.change(experts[from]!.matrices, ranks[from]!, ranks[from]! - n, step);
        await this.change(experts[to]!.matrices, ranks[to]!, ranks[to]! + n, step);
        ranks[from]! -= n;
        ranks[to]! += n;
        columns += n;
      }
    }
    this.model.params.refreshCopies();
    this.history.push({ step, columns });
    return {
      type: "reallocate",
      step: step + 1,
      kind: this.plan.kind,
      columns,
      ranks: this.words(this.ranks, true),
      importance: this.words(importance, true),
    };
  }

  /** Takes the columns off that add least, or puts some on that add nothing yet. */
  private async change(matrices: readonly RankedMatrix[], rank: number, next: number, step: number): Promise<void> {
    const { maxRank, seed } = this.plan;
    for (const matrix of matrices) {
      const views = (["master", "m", "v"] as const).map((of) => ({ a: this.view(of, matrix.a), b: this.view(of, matrix.b) }));
      const all = await Promise.all(
        views.map(async ({ a, b }): Promise<Columns> => {
          const [ofA, ofB] = await Promise.all([a.readF32(), b.readF32()]);
          return { a: ofA.slice(), b: ofB.slice(), columns: maxRank, in: matrix.in, out: matrix.out };
        }),
      );
      if (next < rank) {
        const kept = keptColumns(contributions(all[0]!, rank), next);
        for (const columns of all) compact(columns, kept);
      } else grow(all[0]!, rank, next, seed, `${matrix.a} step ${step}`);
      views.forEach(({ a, b }, i) => {
        a.write(all[i]!.a);
        b.write(all[i]!.b);
        a.dispose();
        b.dispose();
      });
    }
  }

  private view(of: "master" | "m" | "v", key: string): Tensor {
    const i = this.place.get(key)!;
    return this.flat[of].view(this.flat.offsets[i]!, this.flat.parameters[i]!.shape);
  }

  /** By layer; `whole`: of all its experts, by id. */
  private words(values: ReadonlyMap<number, readonly number[]>, whole: boolean): Record<string, number[]> {
    return Object.fromEntries(
      [...values].map(([layer, own]) => {
        if (!whole) return [String(layer), [...own]];
        const all = new Array<number>(this.counts.layout.get(layer)!).fill(0);
        this.plan.layers.get(layer)!.forEach(({ expert }, i) => (all[expert] = own[i]!));
        return [String(layer), all];
      }),
    );
  }

  get state(): ReallocationState {
    const [gate, gradient, ranks] = [this.words(this.gate, false), this.words(this.gradient, false), this.words(this.ranks, true)];
    return { gate, gradient, ranks, history: [...this.history] };
  }

  /** Ranks of now, and how they came to be. */
  get summary(): RankSummary {
    return { ranks: this.words(this.ranks, true), history: [...this.history] };
  }

  /** Goes on from a checkpoint. @throws LayoutError it is of other experts, or its ranks break the budget */
  restore(state: ReallocationState | undefined): void {
    const { layers, rank, minRank, maxRank } = this.plan;
    const fail = (what: string): never => {
      throw new LayoutError(`run.json: reallocation: expected ${what}; restore the file from a copy, or train anew`, {
        where: { key: "reallocation" },
      });
    };
    if (state === undefined) return fail("the state of re-allocated ranks, found none");
    const of = (name: "gate" | "gradient"): Map<number, number[]> =>
      new Map(
        [...layers].map(([layer, experts]) => {
          const own = state[name][layer];
          if (own?.length !== experts.length) fail(`"${name}" of ${experts.length} experts in layer ${layer}`);
          return [layer, [...own!]];
        }),
      );
    [this.gate, this.gradient] = [of("gate"), of("gradient")];
    this.history = [...state.history];
    this.ranks = new Map(
      [...layers].map(([layer, experts]) => {
        const own = experts.map(({ expert }) => state.ranks[layer]?.[expert] ?? -1);
        const odd = own.some((r) => r < minRank || r > maxRank) || own.reduce((a, b) => a + b, 0) !== rank * experts.length;
        if (odd) fail(`ranks from ${minRank} to ${maxRank} of mean ${rank} in layer ${layer}`);
        return [layer, own];
      }),
    );
  }

  dispose(): void {
    this.counts.dispose();
    for (const { grads, norm } of this.norms?.each ?? []) {
      grads.dispose();
      norm.dispose();
    }
    this.norms?.all.dispose();
  }
}

/** Of the passes of one update. */
export interface Sums {
  readonly gates: ReadonlyMap<number, readonly number[]>;
  readonly norms: Float64Array | null;
}
