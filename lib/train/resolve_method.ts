// From the method that a request names to what trains: reads experts or profiles, selects, and says when they were measured on
// another model. The run itself sees the TrainableSpec only.

import { ConfigError } from "../errors.ts";
import { ExpertSet } from "../experts/expert_set.ts";
import { Profile } from "../experts/profile.ts";
import { fixedExperts } from "../experts/select.ts";
import { withCondensers } from "../methods/condenser.ts";
import { fullTrainable } from "../methods/full.ts";
import { loraTrainable } from "../methods/lora.ts";
import type { LoraTraining } from "../methods/lora.ts";
import { RANK_BY_TOP_K } from "../methods/lora_targets.ts";
import type { LoraOptions } from "../methods/lora_targets.ts";
import { esftTrainable } from "../methods/esft.ts";
import type { TrainableSpec } from "../methods/method.ts";
import { perftTrainable } from "../methods/perft.ts";
import { withRouter } from "../methods/router_mode.ts";
import { expertParameters } from "../model/spec.ts";
import { decimal } from "../options.ts";
import type { LoraMethod, MethodOptions, Selection } from "./method_options.ts";
import type { TrainSession } from "./session.ts";

/** What resolving asks of a session: nothing of it needs a device. */
export type MethodSession = Pick<TrainSession, "spec" | "identity">;

/** Weight of the load-balancing loss of PERFT's router: the published recipe's on OLMoE. */
const PERFT_BALANCE = 0.01;

/** @throws ConfigError the experts do not fit the model, or the selection rule does not fit the profile · IoError */
export async function resolveMethod(
  session: MethodSession,
  method: MethodOptions,
  seed: number,
  warn: (message: string) => void,
): Promise<TrainableSpec> {
  const routed = withRouter(session.spec, await withoutRouter(session, method, seed, warn), method, seed);
  return withCondensers(session.spec, routed, method, method.type === "full" || method.router === "train" || method.router === "ste");
}

/** The method itself. Of LoRA the mode "lora" of the routers is a target. */
async function withoutRouter(
  session: MethodSession,
  method: MethodOptions,
  seed: number,
  warn: (message: string) => void,
): Promise<TrainableSpec> {
  if (method.type === "full") return fullTrainable(session.spec);
  if (method.type === "perft") {
    const { type: _, router: _mode, routerRank: _rank, routerAlpha: _alpha, condensers: _n, condenserRate: _rate, ...options } = method;
    return perftTrainable(session.spec, options.variant === "R" ? { balanceLoss: PERFT_BALANCE, ...options } : options, seed);
  }
  const set = await expertsOf(session, method, warn);
  for (const w of set?.warnings ?? []) warn(w);
  if (method.type === "lora") {
    if (set && (set.sharedExperts || set.nonExpertModules))
      warn(
        "the expert set also names shared experts or other modules: LoRA adapts what its targets name, and of the set the routed experts alone",
      );
    return loraTrainable(session.spec, loraOptions(method, set), seed);
  }
  if (!set) throw new ConfigError("ESFT needs experts, or a profile to select them from", { where: { key: "method" } }); // the schema has one
  const { sharedExperts = set.sharedExperts, nonExpertModules = set.nonExpertModules } = method;
  return esftTrainable(session.spec, set.with({ sharedExperts, nonExpertModules }));
}

function loraOptions(method: LoraMethod, experts: ExpertSet | null): LoraOptions & LoraTraining {
  const { rank, alpha, targets, ranks, alphas, rslora, expertTerms, init, dropout, router } = method;
  const { reallocate, reallocateWarmup, reallocateEvery, reallocateDecay, reallocateRatio, reallocateColumns, minRank, maxRank } = method;
  const named = typeof targets === "string" ? split(targets) : targets;
  return {
    rank,
    alpha,
    targets: router === "lora" && !named.includes("router") ? [...named, "router"] : named,
    ranks: byTarget(ranks, "method.ranks", [RANK_BY_TOP_K]),
    alphas: byTarget(alphas, "method.alphas", []),
    rslora,
    expertTerms,
    experts,
    init,
    dropout,
    reallocate,
    reallocateWarmup,
    reallocateEvery,
    reallocateDecay,
    reallocateRatio,
    reallocateColumns,
    minRank,
    maxRank,
  };
}

/** Words between commas; those in a regular expression between slashes stay. */
export const split = (list: string): string[] => (list.match(/\s*\/(?:[^/\\]|\\.)*\/[^,]*|[^,]+/g) ?? []).map((word) => word.trim());

/** "experts=4,router=2" as numbers by target. @param words that stand for numbers */
function byTarget<W extends string>(
  given: string | Readonly<Record<string, number | W>> | undefined,
  key: string,
  words: readonly W[],
): Readonly<Record<string, number | W>> | undefined {
  if (typeof given !== "string") return given;
  const entries = split(given).map((entry): [string, number | W] => {
    const [, target, text = ""] = /^([^=]+)=\s*([^=]+)$/.exec(entry) ?? [];
    const value = words.find((word) => word === text.trim()) ?? decimal(text.trim());
    if (target === undefined || value === undefined)
      throw new ConfigError(`${key}: expected target=number, several between commas, found ${JSON.stringify(entry)}`, { where: { key } });
    return [target.trim(), value];
  });
  return Object.fromEntries(entries) as Readonly<Record<string, number | W>>;
}

const named = (experts: Readonly<Record<string, readonly number[]>>): ExpertSet =>
  new ExpertSet({ layers: [...fixedExperts(experts)].map(([layer, ranked]) => [layer, { ranked }] as const), rule: { fixed: true } });

/** The experts that a method names, or selects from a profile; null: neither. @throws ConfigError · IoError */
export async function expertsOf(
  session: MethodSession,
  { experts, profile, select }: Selection,
  warn: (message: string) => void,
): Promise<ExpertSet | null> {
  const isOther = async (fingerprint: string | undefined): Promise<boolean> =>
    fingerprint !== undefined && fingerprint !== (await session.identity()).fingerprint;
  if (experts !== undefined) {
    const set = typeof experts === "string" ? await ExpertSet.load(experts) : experts instanceof ExpertSet ? experts : named(experts);
    if (await isOther(set.base)) warn("the experts were selected on another checkpoint than the one to train");
    return set;
  }
  if (profile === undefined) return null;
  const measured = typeof profile === "string" ? await Profile.load(profile) : profile;
  if (await isOther(measured.data.model?.fingerprint)) warn("the profile was measured on another checkpoint than the one to train");
  const rule = { ...select, expertParams: expertParameters(session.spec) };
  return measured.select(rule as Parameters<Profile["select"]>[0]);
}
