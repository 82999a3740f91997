// What an adapter's attached tensors belong to: its method, as the manifest keeps it, attached to a model again.

import { z } from "zod";
import { ConfigError, LayoutError } from "../errors.ts";
import type { ExpertSet } from "../experts/expert_set.ts";
import { shownShape } from "../files/fault.ts";
import { checkSchema } from "../files/json.ts";
import type { TensorSlice } from "../files/slice.ts";
import { sliceKey } from "../files/slice.ts";
import type { Attachments } from "../model/layers/attachment.ts";
import type { ModelSpec } from "../model/spec.ts";
import { LoraAttachments } from "./lora.ts";
import { loraMatrices, RANK_BY_TOP_K } from "./lora_targets.ts";
import type { LoraMatrix } from "./lora_targets.ts";
import { PerftAttachments } from "./perft.ts";
import { PERFT_VARIANTS } from "./perft_options.ts";
import type { PerftOptions } from "./perft_options.ts";
import { CondenserAttachments, condenserRule } from "./condenser.ts";
import { joined } from "./joined.ts";
import type { CondenserRule } from "./method.ts";
import { REALLOCATIONS } from "./reallocation.ts";
import { routerMatrices } from "./router_mode.ts";
import { ROUTER_MODES } from "./router_options.ts";

/** What an adapter says of an attached tensor. */
interface AttachedFacts {
  readonly shape: readonly number[];
  readonly layer: number;
  readonly target?: TensorSlice | undefined;
}
const inWords = ({ shape, layer, target }: AttachedFacts): string =>
  `${shownShape(shape)} in layer ${layer}, beside ${target ? `"${sliceKey(target)}"` : "no tensor"}`;

const MANIFEST_METHOD = "adapter.json, method";
const byTarget = <V extends z.ZodType>(value: V) => z.record(z.string(), value).optional();
/** Of the training, not of what the adapter computes. */
const dropout = z.number().min(0).lt(1).optional();
/** How ranks were re-allocated, and what came of it. */
const reallocation = {
  reallocate: z.enum(REALLOCATIONS).optional(),
  ...Object.fromEntries(
    ["reallocateWarmup", "reallocateEvery", "reallocateDecay", "reallocateRatio", "reallocateColumns", "minRank", "maxRank"].map((key) => [
      key,
      z.number().min(0).optional(),
    ]),
  ),
  expertRanks: z.record(z.string(), z.array(z.int().min(0))).optional(),
};
/** How the base's routers were trained, and a term beside them. */
const router = {
  router: z.enum(ROUTER_MODES).optional(),
  condensers: z.int().min(1).optional(),
  condenserRate: z.number().gt(0).optional(),
};
const routerTerm = { ...router, routerRank: z.int().min(1).optional(), routerAlpha: z.number().gt(0).optional() };
/** ESFT attaches a term beside the routers, or nothing. */
const Esft = z.strictObject({ type: z.literal("esft"), ...routerTerm });
const Full = z.strictObject({ type: z.literal("full"), ...router });
const Lora = z.strictObject({
  type: z.literal("lora"),
  ...router,
  rank: z.int().min(1),
  alpha: z.number().gt(0).optional(),
  targets: z.array(z.string()),
  ranks: byTarget(z.int().min(1).or(z.literal(RANK_BY_TOP_K))),
  alphas: byTarget(z.number().gt(0)),
  rslora: z.boolean().optional(),
  expertTerms: z.enum(["matrix", "fused"]).optional(),
  init: z.enum(["kaiming", "perft"]).optional(),
  dropout,
  ...reallocation,
});

/**
 * The attachments of a method; null when it attaches nothing.
 * @param method as adapter.json has it
 * @param tensors what the adapter attached, by name
 * @param experts the adapter's selection
 * @throws LayoutError options that this method does not have, or other tensors than it would bring to this model
 */
export function attachmentsOf(
  spec: ModelSpec,
  method: { readonly type: string },
  tensors: ReadonlyMap<string, AttachedFacts>,
  experts: ExpertSet | null = null,
): Attachments | null {
  if (tensors.size === 0) return null;
  const attachments = madeOf(spec, method, experts);
  const expected = new Map(
    attachments.parameters.map(({ key, shape, target, place }) => [key, inWords({ shape, target, layer: place.layer })]),
  );
  for (const [key, wanted] of expected) {
    const tensor = tensors.get(key);
    const found = tensor ? inWords(tensor) : "no such tensor";
    if (found !== wanted) throw new LayoutError(`adapter: expected "${key}" ${wanted}, found ${found}`, { where: { tensor: key } });
  }
  for (const key of tensors.keys())
    if (!expected.has(key))
      throw new LayoutError(`adapter: "${key}" is not one of the tensors of its method "${method.type}"`, { where: { tensor: key } });
  return attachments;
}

const Perft = z.strictObject({
  type: z.literal("perft"),
  variant: z.enum(PERFT_VARIANTS),
  rank: z.int().min(1),
  alpha: z.number().gt(0).optional(),
  form: z.enum(["lora", "parallel"]).optional(),
  adapters: z.int().min(1).optional(),
  adaptersPerToken: z.int().min(1).optional(),
  compat: z.literal("perft-2024").optional(),
  balanceLoss: z.number().min(0).optional(),
  baseBalanceLoss: z.number().min(0).optional(),
  init: z.enum(["kaiming", "perft"]).optional(),
  dropout,
  ...routerTerm,
});

/** A method that attaches something, its options understood: low-rank terms beside matrices, adapters of PERFT beside blocks, condensers. */
export type AttachingMethod = { readonly matrices: readonly LoraMatrix[]; readonly condensers: CondenserRule | null } & (
  | { readonly type: "lora" }
  | { readonly type: "perft"; readonly options: PerftOptions }
);

/**
 * @param method as adapter.json has it
 * @throws LayoutError options that this method does not have, or that do not fit the model
 */
export function attachingMethod(spec: ModelSpec, method: { readonly type: string }, experts: ExpertSet | null): AttachingMethod {
  const besideRouters = (options: z.output<typeof Esft> | z.output<typeof Perft>): LoraMatrix[] =>
    options.router === "lora" ? fitting(() => routerMatrices(spec, options)) : [];
  const condensersOf = (
    options: z.output<typeof Full> | z.output<typeof Lora> | Parameters<typeof besideRouters>[0],
  ): CondenserRule | null => (options.condensers === undefined ? null : fitting(() => condenserRule(spec, options)));
  switch (method.type) {
    case "full": {
      const checked = checkSchema(Full, method, MANIFEST_METHOD, LayoutError);
      return { type: "lora", matrices: [], condensers: condensersOf(checked) };
    }
    case "esft": {
      const checked = checkSchema(Esft, method, MANIFEST_METHOD, LayoutError);
      return { type: "lora", matrices: besideRouters(checked), condensers: condensersOf(checked) };
    }
    case "lora": {
      const options = checkSchema(Lora, method, MANIFEST_METHOD, LayoutError);
      return {
        type: "lora",
        condensers: condensersOf(options),
        matrices: fitting(() => loraMatrices(spec, { ...options, experts, anyRank: true })),
      };
    }
    case "perft": {
      const checked = checkSchema(Perft, method, MANIFEST_METHOD, LayoutError);
      const { type, router: _, routerRank: _r, routerAlpha: _a, condensers: _c, condenserRate: _s, ...options } = checked;
      return { type, options, matrices: besideRouters(checked), condensers: condensersOf(checked) };
    }
    default:
      throw new LayoutError(
        `adapter: attached tensors of method "${method.type}" are not known to this version; known: esft, full, lora, perft`,
        {
          where: { key: "method.type" },
        },
      );
  }
}

function madeOf(spec: ModelSpec, method: { readonly type: string }, experts: ExpertSet | null): Attachments {
  const known = attachingMethod(spec, method, experts);
  const terms = new LoraAttachments(known.matrices, "kaiming", 0);
  const adapters = known.type === "lora" ? terms : fitting(() => new PerftAttachments(spec, known.options, 0));
  const beside = known.type === "perft" && known.matrices.length > 0 ? terms : null;
  return joined([adapters, beside, known.condensers && new CondenserAttachments(spec, known.condensers)])!;
}

/** What does not fit the model is a fault of the manifest here. */
function fitting<T>(make: () => T): T {
  try {
    return make();
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    throw new LayoutError(`${MANIFEST_METHOD}: ${error.message}`, { where: { ...error.where, file: MANIFEST_METHOD }, cause: error });
  }
}
