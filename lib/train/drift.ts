// Drift: how far the routing of what a run trains on has moved away from the profile that its experts were selected from, or, without
// one, from its own first updates. Counts are those of coverage, taken anyway; nothing of an update depends on it.
//
//   shift of a layer   ½ Σ over experts of |share of routed slots now − then|: the share of slots that went to other experts, 0 to 1
//   chance             what shift would be by sampling alone, were slots independent: ½ Σ √(2/π · s(1 − s) · (1/n + 1/m)), of n and m slots
//   kept               share of the trained experts that the same rule would select again from the counts of now

import { z } from "zod";
import { ConfigError } from "../errors.ts";
import type { ExpertSums } from "../experts/counting.ts";
import type { ExpertSet } from "../experts/expert_set.ts";
import { Profile } from "../experts/profile.ts";
import type { SelectOptions } from "../experts/select.ts";
import type { TrainableSpec } from "../methods/method.ts";
import { expertParameters, moeOf } from "../model/spec.ts";
import type { AskedOptions } from "../options.ts";
import type { MethodOptions } from "./method_options.ts";
import type { TrainSession } from "./session.ts";

const layerSums = z.strictObject({ layer: z.int().min(0), counts: z.array(z.int().min(0)), gateSums: z.array(z.number()) });
/** Of a checkpoint: what was counted since the last look, and what looks compare with where that is the run's own first updates. */
export const driftSchema = z.strictObject({ window: z.array(layerSums), first: z.array(layerSums).nullable() });
export type DriftState = z.output<typeof driftSchema>;
type LayerSums = DriftState["window"][number];

export interface DriftEvent {
  readonly type: "drift";
  readonly step: number;
  /** What the shift is measured from. */
  readonly since: "profile" | "first updates";
  /** Routed tokens that were counted, since the last look. */
  readonly tokens: number;
  /** Mean over layers. */
  readonly shift: number;
  readonly chance: number;
  readonly layers: readonly { readonly layer: number; readonly shift: number }[];
  /** Absent where experts were not selected by token or gate scores of a profile. */
  readonly kept?: number;
}

/** What experts were selected from, and how. */
export interface Selected {
  readonly profile: Profile;
  readonly select: SelectOptions;
  readonly experts: ExpertSet;
}

export class Drift {
  private readonly every: number;
  private readonly most: number;
  private readonly selected: Selected | null;
  private readonly topK: (layer: number) => number;
  private window: LayerSums[] = [];
  private first: LayerSums[] | null = null;

  /** @param every updates from one look to the next @param most shift without a warning @param selected null: experts were named @param topK experts per token in a layer */
  constructor(every: number, most: number, selected: Selected | null, topK: (layer: number) => number) {
    this.every = every;
    this.most = most;
    this.selected = selected;
    this.topK = topK;
  }

  /** The routing of an update. */
  add(sums: ReadonlyMap<number, ExpertSums>): void {
    const before = new Map(this.window.map((of) => [of.layer, of]));
    this.window = [...sums].map(([layer, { counts, gateSums }]) => {
      const of = before.get(layer);
      return of
        ? { layer, counts: of.counts.map((n, e) => n + counts[e]!), gateSums: of.gateSums.map((x, e) => x + gateSums[e]!) }
        : { layer, counts: [...counts], gateSums: [...gateSums] };
    });
  }

  /** What is told after so many updates, of which `last` is the last; null: nothing is due, or this is what others are compared with. */
  look(step: number, last: boolean): DriftEvent | null {
    if (!last && step % this.every !== 0) return null;
    const now = this.window.filter(({ counts }) => total(counts) > 0);
    this.window = [];
    if (now.length === 0) return null;
    const then = this.selected ? this.selected.profile.data.layers : this.first;
    if (then === null) {
      this.first = now;
      return null;
    }
    const pairs = now.flatMap((a) => {
      const b = then.find(({ layer }) => layer === a.layer);
      return b === undefined || total(b.counts) === 0 ? [] : [{ layer: a.layer, a: a.counts, b: b.counts, topK: this.topK(a.layer) }];
    });
    if (pairs.length === 0) return null;
    const layers = pairs.map(({ layer, a, b }) => ({ layer, shift: shiftOf(a, b) }));
    const kept = this.kept(now);
    return {
      type: "drift",
      step,
      since: this.selected ? "profile" : "first updates",
      tokens: Math.max(...pairs.map(({ a, topK }) => total(a) / topK)),
      shift: mean(layers.map(({ shift }) => shift)),
      chance: mean(pairs.map(({ a, b }) => chanceOf(a, b))),
      layers,
      ...(kept === null ? {} : { kept }),
    };
  }

  /** What has moved too far, in words; null: it has not. */
  warning({ step, shift, chance, since, layers, kept, tokens }: DriftEvent): string | null {
    if (shift <= this.most || shift <= 2 * chance) return null;
    const worst = layers.reduce((a, b) => (b.shift > a.shift ? b : a));
    const again = kept === undefined ? "" : `; the same rule would select ${percent(kept)} of the trained experts again`;
    return (
      `step ${step}: the routing of the last ${Math.round(tokens)} tokens has moved from that of the ${since}: ${percent(shift)} of routed slots ` +
      `went to other experts (layer ${worst.layer}: ${percent(worst.shift)})${again}. Profile anew on the merged model and train on from there, or ` +
      `accept it (maxDrift ${this.most})`
    );
  }

  private kept(now: readonly LayerSums[]): number | null {
    if (this.selected === null) return null;
    const { profile, select, experts } = this.selected;
    const { score, average, random, fixed } = { random: undefined, fixed: undefined, ...select };
    if (score === "gradient" || average === "sequences" || random !== undefined || fixed !== undefined) return null;
    if (profile.layers.some((layer) => !now.some((of) => of.layer === layer))) return null;
    const { resume: _r, gradient: _g, format: _f, version: _v, ...data } = profile.data;
    const layers = now.map(({ layer, counts, gateSums }) => {
      const { topK, experts: E } = profile.data.layers.find((l) => l.layer === layer)!;
      const own = { ...(topK === undefined ? {} : { topK }), ...(E === undefined ? {} : { experts: E }) };
      return { layer, ...own, tokens: total(counts) / this.topK(layer), counts, gateSums };
    });
    const again = new Profile({ ...data, layers }, "the routing of the run").select(select);
    const trained = [...experts.layers].flatMap(([layer, { ids }]) => ids.map((id) => again.has(layer, id)));
    return trained.length === 0 ? null : trained.filter(Boolean).length / trained.length;
  }

  get state(): DriftState {
    return { window: this.window, first: this.first };
  }

  /** @throws ConfigError the run was without, and has counted nothing of its part before `step` */
  restore(state: DriftState | undefined, step: number): void {
    if (state === undefined && step > 0 && this.selected === null)
      throw new ConfigError("train.driftEvery: expected 0, as in the run that goes on, whose first updates were not counted; set it to 0", {
        where: { key: "driftEvery" },
      });
    this.window = state?.window ?? [];
    this.first = state?.first ?? null;
  }
}

/** The watch over a run whose method trains some experts. @param asked the method as it was asked for @param resolved what it came to */
export async function driftOf(
  { spec }: Pick<TrainSession, "spec">,
  asked: MethodOptions,
  resolved: TrainableSpec,
  { driftEvery, maxDrift }: Pick<AskedOptions, "driftEvery" | "maxDrift">,
): Promise<Drift | null> {
  if (asked.type !== "esft" || resolved.experts === null) return null;
  const { profile, select } = asked;
  const measured = typeof profile === "string" ? await Profile.load(profile) : profile;
  const rule = { ...select, expertParams: expertParameters(spec) } as SelectOptions;
  const selected = measured ? { profile: measured, select: rule, experts: resolved.experts } : null;
  return new Drift(driftEvery, maxDrift, selected, (layer) => moeOf(spec, layer)!.topK);
}

const total = (counts: readonly number[]): number => counts.reduce((sum, n) => sum + n, 0);
const mean = (values: readonly number[]): number => total(values) / values.length;
const percent = (x: number): string => `${(100 * x).toFixed(0)} %`;

/** ½ Σ |difference of shares|. */
function shiftOf(a: readonly number[], b: readonly number[]): number {
  const [n, m] = [total(a), total(b)];
  return a.reduce((sum, count, e) => sum + Math.abs(count / n - b[e]! / m), 0) / 2;
}

/** Expected by sampling alone. Shares are of the pooled counts. */
function chanceOf(a: readonly number[], b: readonly number[]): number {
  const [n, m] = [total(a), total(b)];
  const spread = (2 / Math.PI) * (1 / n + 1 / m);
  return (
    a.reduce((sum, count, e) => {
      const share = (count + b[e]!) / (n + m);
      return sum + Math.sqrt(spread * share * (1 - share));
    }, 0) / 2
  );
}
