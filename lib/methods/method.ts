// What a method is to everything else: the keys of the base parameters that get a master copy, a gradient and moments, and what is
// attached at the model's seams. The trainer, the data and the report do not know which method runs.

import { ConfigError } from "../errors.ts";
import type { ExpertSet } from "../experts/expert_set.ts";
import { sliceKey } from "../files/slice.ts";
import type { Attachments } from "../model/layers/attachment.ts";
import type { ModelSpec, ParameterRole, ParameterShape } from "../model/spec.ts";
import { parameterShapes } from "../model/spec.ts";
import type { ReallocationPlan } from "./reallocation.ts";

/** What a method was asked for, as JSON. */
export type MethodOptions = Readonly<
  Record<string, string | number | boolean | readonly string[] | Readonly<Record<string, number | string | readonly number[]>>>
>;

/** Biases on the choice of experts that a run moves after each update (condenser.ts). */
export interface CondenserRule {
  /** Experts of each layer that become always active. */
  readonly condensers: number;
  readonly rate: number;
  /** Keys of the biases. */
  readonly layers: readonly { readonly layer: number; readonly key: string }[];
}

export interface TrainableSpec {
  readonly type: "esft" | "full" | "lora" | "perft";
  /** As an adapter's manifest keeps it beside the type. */
  readonly options: MethodOptions;
  /** Keys of base parameters (sliceKey of their place in the checkpoint), in model order. */
  readonly keys: readonly string[];
  /** What it brings beside the base's weights. */
  readonly attachments: Attachments | null;
  readonly condensing: CondenserRule | null;
  /** Selected experts, of a method that has a selection. */
  readonly experts: ExpertSet | null;
  /** Ranks of experts that change while it trains; null: none do. */
  readonly reallocation: ReallocationPlan | null;
  /** Which of it trains when; null: all of it, always. */
  readonly stages: readonly Stage[] | null;
  /** Parameters that train, in some stage. */
  readonly parameters: number;
  /** Those with memory for masters, gradients and moments: more where ranks move (reallocation.ts). */
  readonly allocated: number;
  /** The same as `parameters` by what they are to the model, in model order. */
  readonly roles: readonly TrainedRole[];
  /** Parameters of the base. */
  readonly totalParameters: number;
  /** Lowest decoder layer whose activations a backward needs: 0 with the embedding, the layer count with norm or head alone. */
  readonly lowestLayer: number;
}

/** What trains of one role. */
export interface TrainedRole {
  readonly role: ParameterRole;
  /** They stand beside the base's weights, and are none of them. */
  readonly attached: boolean;
  readonly tensors: number;
  readonly parameters: number;
}

/** What trains for a while (stages.ts). */
export interface Stage {
  /** Parameters that train, of the base and attached. */
  readonly keys: ReadonlySet<string>;
  readonly roles: readonly TrainedRole[];
  /** As that of the whole method. */
  readonly lowestLayer: number;
}

/** The rest of a TrainableSpec from its choice of base parameters and its attachments. @throws ConfigError nothing trains */
export function trainable(
  spec: ModelSpec,
  method: Pick<TrainableSpec, "type"> & Partial<Pick<TrainableSpec, "options" | "attachments" | "experts" | "reallocation" | "condensing">>,
  chosen: (parameter: ParameterShape, key: string) => boolean,
): TrainableSpec {
  const { type, options = {}, attachments = null, experts = null, reallocation = null, condensing = null } = method;
  const shapes = parameterShapes(spec).map((p) => ({ p, key: sliceKey(p.ref) }));
  const base = shapes.filter(({ p, key }) => chosen(p, key));
  const attached = attachments?.parameters ?? [];
  const trained = [
    ...base.map(({ p: { shape, role, layer } }) => ({ shape, role, layer, attached: false })),
    ...attached.map(({ shape, live = shape, place: { role, layer } }) => ({ shape: live, role, layer, attached: true })),
  ];
  if (trained.length === 0) throw new ConfigError("nothing to train: the selection is empty");
  return {
    type,
    options,
    keys: base.map(({ key }) => key),
    attachments,
    condensing,
    experts,
    reallocation,
    stages: null,
    parameters: trained.reduce((n, { shape }) => n + product(shape), 0),
    allocated: [...base.map(({ p }) => p), ...attached].reduce((n, { shape }) => n + product(shape), 0),
    roles: byRole(trained),
    totalParameters: shapes.reduce((n, { p }) => n + product(p.shape), 0),
    lowestLayer: Math.min(spec.layers.length, ...trained.map(({ layer }) => Math.max(0, layer))),
  };
}

/** The same parameters by role, in their order. */
export function byRole(
  trained: readonly { readonly shape: readonly number[]; readonly role: ParameterRole; readonly attached: boolean }[],
): TrainedRole[] {
  const found = new Map<string, TrainedRole>();
  for (const { shape, role, attached } of trained) {
    const key = `${role} ${attached}`;
    const { tensors, parameters } = found.get(key) ?? { tensors: 0, parameters: 0 };
    found.set(key, { role, attached, tensors: tensors + 1, parameters: parameters + product(shape) });
  }
  return [...found.values()];
}

const product = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);
