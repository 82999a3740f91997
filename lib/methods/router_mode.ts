// What a method does with the base's routers, chosen beside every method:
//
//   frozen   nothing of them trains (the rule where nothing else is said)
//   train    all that is the router's trains: its matrix and bias, and where a family has them the norm of its input and the factors
//            per expert on its weights. Never the selection bias, which has no gradient.
//   lora     a low-rank term beside the matrix (LoRA's on the target "router")
//   ste      as train, or where LoRA's targets name the routers as lora, with DenseMixer's straight-through gradient of the routing
//            weights: the backward runs all experts on all tokens (model/layers/straight_through.ts)
//
// Full fine-tuning trains the routers, ESFT does with its non-expert modules, and LoRA's targets may name them; what contradicts that
// is refused.

import { ConfigError } from "../errors.ts";
import type { Attachments } from "../model/layers/attachment.ts";
import { requireStraightThrough } from "../model/layers/straight_through.ts";
import type { ModelSpec } from "../model/spec.ts";
import { moeLayers, moeOf } from "../model/spec.ts";
import { sliceKey } from "../files/slice.ts";
import { joined } from "./joined.ts";
import { LoraAttachments } from "./lora.ts";
import { loraMatrices } from "./lora_targets.ts";
import type { LoraMatrix } from "./lora_targets.ts";
import { trainable } from "./method.ts";
import type { MethodOptions, TrainableSpec } from "./method.ts";
import type { RouterOptions } from "./router_options.ts";

const DEFAULT_RANK = 8;

const refuse = (key: keyof RouterOptions, message: string): never => {
  throw new ConfigError(message, { where: { key: `method.${key}` } });
};

/** The matrices of the routers with their rank and factor. @throws ConfigError a rank or alpha that does not fit */
export function routerMatrices(spec: ModelSpec, { routerRank, routerAlpha }: RouterOptions): LoraMatrix[] {
  const rank = rankOf(spec, routerRank);
  if (routerAlpha !== undefined && !(Number.isFinite(routerAlpha) && routerAlpha > 0))
    refuse("routerAlpha", `routerAlpha must be a number > 0, found ${routerAlpha}`);
  return loraMatrices(spec, { rank, alpha: routerAlpha, targets: ["router"] });
}

function rankOf(spec: ModelSpec, asked: number | undefined): number {
  const experts = Math.min(...moeLayers(spec).map((l) => moeOf(spec, l)!.experts.length));
  const most = Math.min(spec.hidden, experts);
  const rank = asked ?? Math.min(DEFAULT_RANK, most);
  if (!Number.isSafeInteger(rank) || rank < 1) refuse("routerRank", `routerRank must be an integer >= 1, found ${rank}`);
  if (rank > most) refuse("routerRank", `routerRank must be at most ${most} beside routers [${experts}, ${spec.hidden}], found ${rank}`);
  return rank;
}

/** Layers whose routers train: their matrix, or something else that is theirs, or a term beside the matrix. */
export function trainedRouters(spec: ModelSpec, { keys, attachments }: Pick<TrainableSpec, "keys" | "attachments">): number[] {
  const trained = new Set(keys);
  for (const { target } of attachments?.parameters ?? []) if (target) trained.add(sliceKey(target));
  return moeLayers(spec).filter((l) => {
    const { router, routerBias, expertScale } = moeOf(spec, l)!;
    return [router, routerBias, expertScale].some((ref) => ref !== undefined && trained.has(sliceKey(ref)));
  });
}

/**
 * A method with the routers as `options` say.
 * @param seed of first values @throws ConfigError they contradict the method, or do not fit the model
 */
export function withRouter(spec: ModelSpec, method: TrainableSpec, options: RouterOptions, seed: number): TrainableSpec {
  const { router: mode, routerRank, routerAlpha } = options;
  for (const key of ["routerRank", "routerAlpha"] as const)
    if (options[key] !== undefined && mode !== "lora")
      refuse(key, `${key} belongs to router "lora", found router ${mode === undefined ? "not given" : `"${mode}"`}`);
  if (mode === undefined) return method;
  const layers = moeLayers(spec);
  if (layers.length === 0)
    refuse("router", `router "${mode}" needs a Mixture-of-Experts model; this ${spec.modelType} model has no router`);
  const keys = new Set(method.keys);
  const trains = layers.some((l) => keys.has(sliceKey(moeOf(spec, l)!.router)));
  const adapted = method.type === "lora" && (method.attachments?.parameters ?? []).some((p) => p.place.role === "router");
  if (mode === "frozen" || mode === "lora") {
    if (trains)
      refuse(
        "router",
        `router "${mode}" contradicts ${TRAINS[method.type] ?? "the method"}, which trains the routers: leave it out, or take "train"`,
      );
    if (adapted && mode === "frozen")
      refuse("router", 'router "frozen" contradicts the targets of LoRA, which name routers: leave one of them out');
    if (mode === "frozen" || adapted) return method;
  }
  if (mode === "train" && adapted)
    refuse("router", 'router "train" contradicts the targets of LoRA, which name routers: take those out, or router "lora"');
  if (mode === "train" && method.type === "full") return method;
  if (mode === "ste") requireStraightThrough(spec, adapted);
  const matrices = mode === "lora" ? routerMatrices(spec, options) : [];
  const added: Attachments | null =
    mode === "lora" ? new LoraAttachments(matrices, "kaiming", seed) : mode === "ste" ? { parameters: [], straightThrough: true } : null;
  const rank = rankOf(spec, routerRank);
  const said: MethodOptions = { router: mode, ...(mode === "lora" ? { routerRank: rank, routerAlpha: routerAlpha ?? 2 * rank } : {}) };
  const { type, experts, reallocation } = method;
  const attachments = joined([method.attachments, added]);
  const whole = mode === "train" || (mode === "ste" && !adapted);
  return trainable(
    spec,
    { type, experts, reallocation, attachments, options: { ...method.options, ...said } },
    ({ role }, key) => keys.has(key) || (whole && role === "router"),
  );
}

const TRAINS: Readonly<Partial<Record<TrainableSpec["type"], string>>> = { full: "full fine-tuning", esft: "nonExpertModules" };
