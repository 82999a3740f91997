// What a plan chooses from: methods with their sizes, best first, and what is known of the experts that they would train.

import { ExpertSet, expertLayout } from "../experts/expert_set.ts";
import type { Profile } from "../experts/profile.ts";
import type { TrainableSpec } from "../methods/method.ts";
import type { ModelSpec } from "../model/spec.ts";
import { parseOptions } from "../options.ts";
import { methodSchema } from "../train/method_options.ts";
import { resolveMethod } from "../train/resolve_method.ts";
import { evenLoads } from "./cost.ts";
import type { Loads } from "./cost.ts";

export const PLAN_METHODS = ["esft", "lora", "perft", "full"] as const;
export type PlanMethod = (typeof PLAN_METHODS)[number];

export interface Candidate {
  readonly method: PlanMethod;
  readonly label: string;
  /** The method as a job has it; of ESFT without a profile the rule that a profile will be asked for. */
  readonly options: Readonly<Record<string, unknown>>;
  readonly trainable: TrainableSpec;
  readonly p: number | null;
  /** Of all routed experts. */
  readonly expertShare: number | null;
  /** Why this one rather than the others of its method. */
  readonly why: string;
}

/** Thresholds and, without a profile, shares of a layer's experts: the papers' choice first, then wider and narrower ones. */
const P = [0.2, 0.3, 0.1, 0.05];
const SHARES = [0.2, 0.1, 0.05];

/** In order of preference inside of each method. @throws ConfigError a profile of another model */
export async function candidatesOf(
  spec: ModelSpec,
  methods: readonly PlanMethod[],
  profile: { readonly profile: Profile; readonly file: string | null } | null,
  seed: number,
): Promise<Candidate[]> {
  const session = { spec, identity: (): Promise<never> => Promise.resolve({ fingerprint: profile?.profile.base } as never) };
  const layout = expertLayout(spec);
  const E = [...layout.values()].reduce((a, b) => a + b, 0);
  const resolve = async (options: Readonly<Record<string, unknown>>): Promise<TrainableSpec> =>
    resolveMethod(session, parseOptions(methodSchema, options, "plan.method"), seed, () => undefined);
  const found: Candidate[] = [];
  for (const method of methods) {
    if (E === 0 && (method === "esft" || method === "perft")) continue; // a dense model has neither
    if (method !== "esft") {
      const trainable = await resolve({ type: method });
      found.push({ method, label: method, options: { type: method }, trainable, p: null, expertShare: null, why: WHY[method] });
    } else if (profile) {
      for (const p of P) {
        const select = { score: "token", p };
        const trainable = await resolve({ type: method, profile: profile.profile, select });
        const n = trainable.experts!.count;
        const options = { type: method, ...(profile.file === null ? {} : { profile: profile.file }), select };
        found.push({ method, label: `esft p ${p}`, options, trainable, p, expertShare: n / E, why: WHY.esft });
      }
    } else {
      for (const share of SHARES) {
        const spread = [...layout].map(([layer, e]) => [layer, { ranked: ids(Math.max(1, Math.round(share * e))) }] as const);
        const trainable = await resolve({ type: method, experts: new ExpertSet({ layers: spread }) });
        const most = Math.max(...spread.map(([, { ranked }]) => ranked.length));
        const options = { type: method, select: { topKPerLayer: most } };
        found.push({
          method,
          label: `esft ${most} per layer`,
          options,
          trainable,
          p: null,
          expertShare: trainable.experts!.count / E,
          why: WHY.esft,
        });
      }
    }
  }
  return found;
}

const ids = (n: number): number[] => Array.from({ length: n }, (_, i) => i);

const WHY: Readonly<Record<PlanMethod, string>> = {
  esft: "trains the task's experts alone: least forgetting, a small adapter",
  lora: "low-rank terms beside the dense matrices: least state",
  perft: "adapters beside the experts, with a router of their own",
  full: "every parameter: the largest gain on the task, and the most forgotten",
};

/** How often each expert is met: by the profile's counts, or evenly. */
export function loadsOf(profile: Profile | null): Loads {
  if (!profile) return evenLoads;
  return (layer, E, rows) => {
    if (layer === null || !profile.layers.includes(layer)) return evenLoads(layer, E, rows);
    const { counts } = profile.layer(layer);
    if (counts.length !== E) return evenLoads(layer, E, rows);
    const total = counts.reduce((a, b) => a + b, 0) || 1;
    let [seen, before] = [0, 0];
    return counts.map((n) => {
      seen += n;
      const until = Math.round((rows * seen) / total);
      const own = until - before;
      before = until;
      return own;
    });
  };
}
