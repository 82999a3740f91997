// LoRA (arXiv 2106.09685) on the linear layers of a model: attention, dense MLPs, shared experts, routers. Which matrices are
// adapted is decided here from targets; the terms themselves are low_rank.ts.
//
// Tensors are called lora.<checkpoint tensor>.A [r, in] and .B [out, r]. First values as in PEFT: A uniform in ±1/√in (Kaiming
// with a = √5), B zero, from a stream of its own per matrix, so that a choice of targets does not change the others' values.

import { createHash } from "node:crypto";
import { ConfigError } from "../errors.ts";
import { ShuffleRandom } from "../data/shuffle.ts";
import type { TensorSlice } from "../files/slice.ts";
import { sliceKey } from "../files/slice.ts";
import type { AttachmentContext, Attachments, ExpertsAttachment, ExpertsSite, LinearAttachment } from "../model/layers/attachment.ts";
import type { LinearSpec, ModelSpec, ParameterRole, ParameterShape } from "../model/spec.ts";
import { parameterShapes } from "../model/spec.ts";
import type { AttachedSpec } from "../model/weights/parameter.ts";
import { nearest } from "../options/suggest.ts";
import { LowRank, LowRankMlp } from "./low_rank.ts";
import { trainable } from "./method.ts";
import type { TrainableSpec } from "./method.ts";
import type { LowRankTarget } from "./low_rank.ts";

export interface LoraOptions {
  /** r. */
  readonly rank: number;
  /** α; the term is scaled by α/r. */
  readonly alpha: number;
  /** Groups of matrices (see LORA_GROUPS), or names of modules as the checkpoint spells them: the last parts, or all of it. */
  readonly targets: readonly string[];
}

/** Names for groups of matrices, by what they are to the model. */
export const LORA_GROUPS = {
  attention: ["attention"],
  dense: ["dense"],
  shared: ["shared"],
  router: ["router"],
  linear: ["attention", "dense", "shared"],
} as const satisfies Record<string, readonly ParameterRole[]>;

const ADAPTABLE: ReadonlySet<ParameterRole> = new Set(Object.values(LORA_GROUPS).flat());

const adapts = ({ role, shape }: ParameterShape): boolean => ADAPTABLE.has(role) && shape.length === 2;

/** Name of the module that owns a tensor: what targets are compared with. */
const moduleOf = ({ ref }: ParameterShape): string => sliceKey(ref).replace(/\.weight(?=$|\[)/, "");

/**
 * The matrices that the targets name, in model order.
 * @throws ConfigError a target that matches nothing (with the nearest name), or only what LoRA is not served on
 */
export function loraTargets(spec: ModelSpec, targets: readonly string[]): ParameterShape[] {
  const fail = (message: string): never => {
    throw new ConfigError(message, { where: { key: "method.targets" } });
  };
  if (targets.length === 0) fail("LoRA needs at least one target, found none");
  const shapes = parameterShapes(spec);
  const matches = (target: string) => (p: ParameterShape) => moduleOf(p) === target || moduleOf(p).endsWith(`.${target}`);
  const chosen = new Set<ParameterShape>();
  for (const target of targets) {
    const roles: readonly ParameterRole[] | undefined = Object.hasOwn(LORA_GROUPS, target)
      ? LORA_GROUPS[target as keyof typeof LORA_GROUPS]
      : undefined;
    const found = roles ? shapes.filter((p) => roles.includes(p.role)) : shapes.filter(matches(target));
    const adaptable = found.filter(adapts);
    for (const p of adaptable) chosen.add(p);
    if (adaptable.length > 0) continue;
    const [other] = found;
    if (other) fail(`LoRA target "${target}" matches only ${describe(other)}, which LoRA does not adapt`);
    const names = new Set(shapes.filter(adapts).map((p) => moduleOf(p).split(".").at(-1) ?? ""));
    const valid = [...Object.keys(LORA_GROUPS), ...names];
    const near = nearest(target, valid);
    fail(
      `LoRA target "${target}" matches nothing in this ${spec.modelType} model${near === undefined ? "" : `; did you mean "${near}"?`} (valid: ${valid.join(", ")})`,
    );
  }
  return shapes.filter((p) => chosen.has(p));
}

const describe = ({ role, shape }: ParameterShape): string =>
  role === "expert" ? "routed experts" : shape.length === 2 ? `the ${role}` : shape.length === 1 ? "vectors" : "convolutions";

/** @throws ConfigError rank or alpha out of range */
function checkOptions({ rank, alpha }: Pick<LoraOptions, "rank" | "alpha">): void {
  if (!Number.isSafeInteger(rank) || rank < 1)
    throw new ConfigError(`LoRA rank must be an integer >= 1, found ${rank}`, { where: { key: "method.rank" } });
  if (!Number.isFinite(alpha) || alpha <= 0)
    throw new ConfigError(`LoRA alpha must be a number > 0, found ${alpha}`, { where: { key: "method.alpha" } });
}

/**
 * LoRA on the matrices that the targets name; the base is frozen.
 * @param seed of the first values of A
 * @throws ConfigError a rank, alpha or target that does not fit the model
 */
export function loraTrainable(spec: ModelSpec, { rank, alpha, targets }: LoraOptions, seed: number): TrainableSpec {
  const attachments = new LoraAttachments(loraTargets(spec, targets), { rank, alpha }, seed);
  return trainable(spec, { type: "lora", options: { rank, alpha, targets: [...targets] }, attachments }, () => false);
}

/** What LoRA attaches to a model. */
export class LoraAttachments implements Attachments {
  readonly parameters: readonly AttachedSpec[];
  private readonly byWeight: ReadonlyMap<string, LowRankTarget>;

  /** @param seed of the first values of A */
  constructor(adapted: readonly ParameterShape[], options: Pick<LoraOptions, "rank" | "alpha">, seed: number) {
    checkOptions(options);
    const { rank, alpha } = options;
    const byWeight = new Map<string, LowRankTarget>();
    this.byWeight = byWeight;
    this.parameters = adapted.flatMap(({ ref, shape, role, layer }): AttachedSpec[] => {
      const [out, input] = shape as [number, number];
      if (rank > Math.min(out, input))
        throw new ConfigError(
          `LoRA rank must be at most ${Math.min(out, input)} beside "${sliceKey(ref)}" [${out}, ${input}], found ${rank}`,
          {
            where: { key: "method.rank", tensor: sliceKey(ref) },
          },
        );
      const key = sliceKey(ref);
      const [a, b] = [`lora.${key}.A`, `lora.${key}.B`];
      byWeight.set(key, { a, b, rank, scaling: alpha / rank, exact: role === "router" });
      const place = { role, layer };
      return [
        { key: a, shape: [rank, input], place, target: ref, initial: () => uniform(rank * input, 1 / Math.sqrt(input), seed, a) },
        { key: b, shape: [out, rank], place, target: ref, initial: () => new Float32Array(out * rank) },
      ];
    });
  }

  private beside(ref: TensorSlice, context: AttachmentContext): LowRank | null {
    const target = this.byWeight.get(sliceKey(ref));
    return target ? new LowRank(target, context) : null;
  }

  linear(target: LinearSpec, context: AttachmentContext): LinearAttachment | null {
    return this.beside(target.weight, context);
  }

  experts({ routed, experts }: ExpertsSite, context: AttachmentContext): ExpertsAttachment | null {
    const [mlp] = experts;
    if (routed || !mlp) return null;
    const of = (part: "gate" | "up" | "down"): LowRank | null =>
      this.beside(mlp[part], { plan: context.plan.named(part), attached: (key) => context.attached(key) });
    const terms = { gate: of("gate"), up: of("up"), down: of("down") };
    return terms.gate || terms.up || terms.down ? new LowRankMlp(terms) : null;
  }
}

/** n values uniform in ±bound, from the stream of (seed, name). */
function uniform(n: number, bound: number, seed: number, name: string): Float32Array {
  const stream = createHash("sha256").update(name).digest().readUInt32LE(0);
  const random = new ShuffleRandom(seed, stream);
  return Float32Array.from({ length: n }, () => (random.nextUint32() / 2 ** 31 - 1) * bound);
}
