// The options of each method, as TypeScript, YAML, flags and request.json have them: a member of methodSchema per method.

import { z } from "zod";
import { ExpertSet } from "../experts/expert_set.ts";
import { Profile } from "../experts/profile.ts";
import { PERFT_VARIANTS } from "../methods/perft_options.ts";
import { REALLOCATIONS } from "../methods/reallocation.ts";
import { ROUTER_MODES } from "../methods/router_options.ts";
import { isPlain, selectSchema } from "../options.ts";

const experts = z.union(
  [z.string(), z.instanceof(ExpertSet), z.record(z.string(), z.array(z.int().min(0)))],
  "expected a file, an ExpertSet, or layer: [ids]",
);
const profile = z.union([z.string(), z.custom<Profile>((x) => x instanceof Profile)], "expected a file or a Profile");

/** Adds an issue with its own words for what was found. */
export function fault(ctx: z.core.ParsePayload, path: readonly string[], message: string, found: string): void {
  ctx.issues.push({ code: "custom", input: ctx.value, path: [...path], message, params: { found } });
}

/** Where a selection of experts comes from: a set (ours or expert_cfg.json), or a profile to select from. */
const selection = {
  experts: experts
    .optional()
    .describe("expert set: output of `esft select`, or an official expert_cfg.json; in a YAML file also layer: [ids]"),
  profile: profile.optional().describe("instead of --experts: a profile to select from (with --score and --p)"),
  select: selectSchema.optional(),
};

/** What a method does with the base's routers. */
const router = {
  router: z
    .enum(ROUTER_MODES)
    .optional()
    .describe(
      "the base's routers (default: frozen, unless the method trains them): train, lora = a low-rank term beside each, " +
        "ste = train with DenseMixer's straight-through gradient, whose backward runs all experts",
    ),
  condensers: z
    .int()
    .min(1)
    .optional()
    .describe("experts of each layer that a bias makes always active, beside routers that train (ExpertCondenser; default: none)"),
  condenserRate: z
    .number()
    .gt(0)
    .max(1)
    .optional()
    .describe(
      "what that bias moves by after each update; an expert is always active once it is above all scores, 1 unless the model has a bias or groups (default: 0.01)",
    ),
};
const routerTerm = {
  ...router,
  routerRank: z
    .int()
    .min(1)
    .optional()
    .describe("rank of the terms of router lora beside ESFT and PERFT (default: 8, at most the experts)"),
  routerAlpha: z.number().gt(0).optional().describe("alpha of those terms (default: twice their rank)"),
};

const esft = z
  .strictObject({
    type: z
      .literal("esft")
      .describe(
        "what trains: esft = the selected experts, lora = low-rank terms beside matrices, perft = adapters beside MoE blocks, full = everything",
      ),
    ...selection,
    sharedExperts: z.boolean().optional().describe("train the shared experts too (default: as the expert set says)"),
    nonExpertModules: z
      .boolean()
      .optional()
      .describe("train embedding, attention, norms, router, dense layers and head too (default: as the expert set says)"),
    ...routerTerm,
  })
  .check((ctx) => {
    const { experts: set, profile: scores, select, sharedExperts, nonExpertModules } = ctx.value;
    if ((set === undefined) === (scores === undefined))
      fault(ctx, [], "expected either experts (a set or its file) or profile and select", set === undefined ? "neither" : "both");
    else if (set !== undefined && select !== undefined) fault(ctx, ["select"], "expected with a profile only", "experts too");
    else if (sharedExperts !== true && nonExpertModules !== true && (namesNone(set) || namesNone(select?.fixed)))
      fault(
        ctx,
        set === undefined ? ["select", "fixed"] : ["experts"],
        "expected experts, or sharedExperts or nonExpertModules: true, which train without them",
        "no expert and both switches off",
      );
  });

/** Experts that are named, and are none; a file or an ExpertSet is not looked into. */
function namesNone(experts: unknown): boolean {
  if (experts instanceof ExpertSet) return false;
  return experts === "none" || (isPlain(experts) && Object.values(experts).every((ids) => Array.isArray(ids) && ids.length === 0));
}

/** Target → number; as a text: target=8,other=4. */
const byTarget = <V extends z.ZodType>(value: V) => z.string().or(z.record(z.string(), value));

/** Ranks of routed experts that change while they train (methods/reallocation.ts). */
const reallocation = {
  reallocate: z
    .enum(REALLOCATIONS)
    .optional()
    .describe(
      "move ranks of LoRA among the routed experts of a layer, rank on average: epng = by the router's weight that an expert gets, " +
        "dr = by that times the gradient of its terms; the factor stays alpha / rank",
    ),
  reallocateWarmup: z.int().min(1).optional().describe("updates before the first re-allocation (default: 50)"),
  reallocateEvery: z.int().min(1).optional().describe("updates from one re-allocation to the next (default: 50)"),
  reallocateDecay: z.number().min(0).lt(1).optional().describe("decay of the averages that decide, per update (default: 0.95)"),
  reallocateRatio: z
    .number()
    .gt(0)
    .max(0.5)
    .optional()
    .describe("most experts of a layer that give ranks, and that get some, as a share; at least one (default: 0.25)"),
  reallocateColumns: z.int().min(1).optional().describe("ranks that one gives at a time (default: a quarter of rank)"),
  minRank: z.int().min(0).optional().describe("lowest rank of an expert; without any it stays (default: 0 with epng, 1 with dr)"),
  maxRank: z.int().min(1).optional().describe("highest rank of an expert, which memory is taken for (default: twice the rank)"),
};

const lora = z
  .strictObject({
    type: z.literal("lora"),
    rank: z.int().min(1).default(16).describe("rank of the terms that LoRA and PERFT add"),
    alpha: z.number().gt(0).optional().describe("the terms of LoRA and PERFT are scaled by alpha / rank (default: twice the rank)"),
    targets: z
      .string()
      .or(z.array(z.string()).readonly())
      .default("linear")
      .describe(
        "matrices that LoRA adapts, comma-separated: attention, dense, shared, router, experts, head, linear (the first three), all-linear " +
          "(all but the head), names of modules, or /regular expressions/ over their names",
      ),
    ranks: byTarget(z.int().min(1).or(z.literal("r/top_k")))
      .optional()
      .describe("other ranks for some targets of LoRA: experts=4,router=2; experts=r/top_k is the rank over the experts of a token"),
    alphas: byTarget(z.number().gt(0)).optional().describe("other alphas for some targets of LoRA, likewise"),
    rslora: z.boolean().optional().describe("scale LoRA by alpha / sqrt(rank) (rank-stabilised)"),
    expertTerms: z
      .enum(["matrix", "fused"])
      .optional()
      .describe(
        "terms of LoRA in routed experts: matrix = one beside each of gate, up, down (default); fused = gate and up share one, as in PEFT",
      ),
    init: z
      .enum(["kaiming", "perft"])
      .optional()
      .describe("first values of A in LoRA and PERFT (B is 0): kaiming = uniform in ±1/√in, perft = normal with variance 2/rank"),
    dropout: z
      .number()
      .min(0)
      .lt(1)
      .optional()
      .describe("share of what terms of LoRA and PERFT read that is dropped out in training (default: 0)"),
    ...selection,
    ...router,
    ...reallocation,
  })
  .check((ctx) => {
    const { experts: set, profile: scores, select, reallocate, ...rest } = ctx.value;
    const without = (Object.keys(reallocation) as (keyof typeof reallocation)[]).find(
      (key) => key !== "reallocate" && (rest as Record<string, unknown>)[key] !== undefined,
    );
    if (reallocate === undefined && without !== undefined)
      fault(ctx, [without], `expected with reallocate only (${REALLOCATIONS.join(" or ")})`, "no reallocate");
    if (set !== undefined && scores !== undefined)
      fault(ctx, [], "expected experts (a set or its file), or profile and select, or neither (all routed experts)", "both");
    else if (scores === undefined && select !== undefined) fault(ctx, ["select"], "expected with a profile only", "no profile");
  });

const perft = z.strictObject({
  type: z.literal("perft"),
  variant: z
    .enum(PERFT_VARIANTS)
    .default("R")
    .describe("PERFT: R = adapters under a router of their own, E = one per routed expert, D = for every token, S = one for every token"),
  rank: lora.shape.rank,
  alpha: lora.shape.alpha,
  form: z
    .enum(["lora", "parallel"])
    .optional()
    .describe("adapters of PERFT: lora = (alpha / rank) B A h (default), parallel = B silu(A h)"),
  adapters: z.int().min(1).optional().describe("adapters of PERFT beside each block: R (default: 4), D (default: 2)"),
  adaptersPerToken: z.int().min(1).optional().describe("adapters that a token visits in PERFT R (default: 2)"),
  compat: z
    .literal("perft-2024")
    .optional()
    .describe("PERFT R as the code of 2024 computes it: adapters are weighted by the base router's weights, slot by slot"),
  balanceLoss: z.number().min(0).optional().describe("weight of the load-balancing loss of PERFT R's router (default: 0.01)"),
  baseBalanceLoss: z
    .number()
    .min(0)
    .optional()
    .describe("weight of the load-balancing loss of the base's frozen routers in PERFT (default: 0)"),
  init: lora.shape.init,
  dropout: lora.shape.dropout,
  ...routerTerm,
});

export const methodSchema = z.discriminatedUnion("type", [esft, lora, perft, z.strictObject({ type: z.literal("full"), ...router })]);
export type PerftMethod = z.output<typeof perft>;
export type MethodOptions = z.output<typeof methodSchema>;
export type EsftMethod = z.input<typeof esft>;
/** Where a method's experts come from. */
export type Selection = Pick<z.output<typeof esft>, "experts" | "profile" | "select">;
export type LoraMethod = z.output<typeof lora>;
