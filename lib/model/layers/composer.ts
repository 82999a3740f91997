// What a layer is composed from: its owner's plan, the model's parameters, the method's attachments, the rotary tables.

import { LayoutError } from "../../errors.ts";
import type { TensorSlice } from "../../files/slice.ts";
import type { RopeHandle, RopeIndex } from "../rope_table.ts";
import type { Planner } from "../slots.ts";
import type { LinearSpec, QueryFactorSpec, RopeSpec } from "../spec.ts";
import type { StateHandle, StateIndex, StateSpec } from "../states.ts";
import type { Parameter, ParameterList, ParameterSource } from "../weights/parameter.ts";
import { only } from "./attachment.ts";
import type { BalancedRouter, BalancePools, RouterSizes } from "./balance.ts";
import type {
  AttachmentContext,
  Attachments,
  ExpertsAttachment,
  ExpertsTerms,
  ExpertsSite,
  HeadAttachment,
  LinearAttachment,
  MoeAttachment,
  MoeSite,
} from "./attachment.ts";

export class Composer implements AttachmentContext {
  readonly plan: Planner;
  private readonly source: ParameterSource;
  private readonly methods: readonly Attachments[];
  private readonly ropes: RopeIndex;
  private readonly states: StateIndex;
  private readonly pools: BalancePools;

  constructor(
    plan: Planner,
    source: ParameterSource,
    methods: readonly Attachments[],
    ropes: RopeIndex,
    states: StateIndex,
    pools: BalancePools,
  ) {
    this.plan = plan;
    this.source = source;
    this.methods = methods;
    this.ropes = ropes;
    this.states = states;
    this.pools = pools;
  }

  /** The same, for a part of the owner. */
  named(part: string): Composer {
    return new Composer(this.plan.named(part), this.source, this.methods, this.ropes, this.states, this.pools);
  }

  parameter(ref: TensorSlice): Parameter {
    return this.source.get(ref);
  }
  attached(key: string): Parameter {
    return this.source.attached(key);
  }
  values(parameters: readonly Parameter[]): ParameterList {
    return this.source.list(parameters, "value");
  }
  /** Null where there is none: what is frozen has no gradient. */
  gradients(parameters: readonly Parameter[]): ParameterList | null {
    return parameters.length > 0 ? this.source.list(parameters, "grad") : null;
  }
  rope(spec: RopeSpec): RopeHandle {
    return this.ropes.handle(spec);
  }

  queryFactor(spec: QueryFactorSpec): RopeHandle {
    return this.ropes.queryFactor(spec);
  }

  chunk(size: number): RopeHandle {
    return this.ropes.chunk(size);
  }

  /** What a layer keeps of a sequence while it is decoded. */
  state(spec: StateSpec): StateHandle {
    return this.states.add(spec);
  }

  private weight(of: "base" | "added"): number {
    return this.methods.reduce((sum, m) => sum + (m.balance?.[of] ?? 0), 0);
  }
  /** Of the base's routers: the same for those that a method brought. */
  baseBalanced(routers: RouterSizes): BalancedRouter | null {
    return this.pools.join(0, this.weight("base"), routers);
  }
  balanced(routers: RouterSizes): BalancedRouter | null {
    return this.pools.join(1, this.weight("added"), routers);
  }

  /** Routers have the straight-through gradient of a dense mixture. */
  get straightThrough(): boolean {
    return this.methods.some((m) => m.straightThrough);
  }

  /** The loss takes one term. */
  attachedToHead(weight: TensorSlice): HeadAttachment | null {
    return only(
      this.methods.flatMap((m) => m.head?.(weight, this) ?? []),
      "the head",
    );
  }
  /** What is added to the scores of a layer's experts for choosing; null: nothing. */
  attachedSelectionBias(layer: number): Parameter | null {
    return only(
      this.methods.flatMap((m) => m.selectionBias?.(layer, this) ?? []),
      `the choice of experts in layer ${layer}`,
    );
  }
  attachedToLinear(target: LinearSpec): LinearAttachment[] {
    return this.methods.flatMap((m) => m.linear?.(target, this) ?? []);
  }
  /** @throws LayoutError terms inside the products beside anything else */
  attachedToExperts(site: ExpertsSite): { readonly open: readonly ExpertsAttachment[]; readonly terms: ExpertsTerms | null } {
    const all = this.methods.flatMap((m) => m.experts?.(site, this) ?? []);
    const open = all.flatMap((m) => ("forward" in m ? [m] : []));
    const terms = all.flatMap((m) => ("forward" in m ? [] : [m]));
    if (terms.length > 1 || (terms.length > 0 && open.length > 0))
      throw new LayoutError(
        `layer ${site.layer}: low-rank terms inside the products of experts stand alone, found ${all.length} attachments`,
      );
    return { open, terms: terms[0] ?? null };
  }
  attachedToMoe(site: MoeSite): MoeAttachment[] {
    return this.methods.flatMap((m) => m.moe?.(site, this) ?? []);
  }
}
