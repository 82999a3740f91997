// What trains. A method is a TrainableSpec: the keys of the base parameters that get a master copy, a gradient and moments.
// The trainer, the data and the report do not know which method runs.

import { ConfigError } from "../errors.ts";
import type { ExpertSet } from "../experts/expert_set.ts";
import { expertLayout } from "../experts/expert_set.ts";
import { sliceKey } from "../files/slice.ts";
import type { ModelSpec, ParameterRole } from "../model/spec.ts";
import { moeLayers, moeOf, parameterShapes } from "../model/spec.ts";

export interface TrainableSpec {
  readonly type: "esft" | "full";
  /** Parameter keys (sliceKey of their place in the checkpoint), in model order. */
  readonly keys: readonly string[];
  /** Selected experts, for ESFT. */
  readonly experts: ExpertSet | null;
  readonly parameters: number;
  readonly totalParameters: number;
  /** Lowest decoder layer whose activations a backward needs: 0 with the embedding, the layer count with norm or head alone. */
  readonly lowestLayer: number;
}

const nonExpertRoles: ReadonlySet<ParameterRole> = new Set(["embedding", "attention", "norm", "router", "dense", "head"]);

/**
 * ESFT (arXiv 2407.01906): the selected routed experts; with the set's switches also the shared experts, and the non-expert
 * modules (embedding, attention, norms, router, dense layers, head), as in the official configuration.
 * @throws ConfigError the set does not fit the model
 */
export function esftTrainable(spec: ModelSpec, experts: ExpertSet): TrainableSpec {
  const layers = moeLayers(spec);
  if (layers.length === 0) throw new ConfigError(`ESFT needs a Mixture-of-Experts model; this ${spec.modelType} model has no sparse layer`);
  experts.validate(expertLayout(spec));
  const selected = new Set<string>();
  for (const l of layers)
    for (const e of experts.ids(l)) {
      const { gate, up, down } = moeOf(spec, l)!.experts[e]!;
      for (const ref of [gate, up, down]) selected.add(sliceKey(ref));
    }
  return trainable(spec, "esft", experts, (role, key) =>
    role === "expert"
      ? selected.has(key)
      : role === "shared"
        ? experts.sharedExperts
        : experts.nonExpertModules && nonExpertRoles.has(role),
  );
}

/** Full fine-tuning: the same path with everything selected (selection biases have no gradient). */
export function fullTrainable(spec: ModelSpec): TrainableSpec {
  return trainable(spec, "full", null, (role) => role !== "selectionBias");
}

function trainable(
  spec: ModelSpec,
  type: TrainableSpec["type"],
  experts: ExpertSet | null,
  chosen: (role: ParameterRole, key: string) => boolean,
): TrainableSpec {
  const keys: string[] = [];
  let parameters = 0;
  let totalParameters = 0;
  let lowestLayer = spec.layers.length;
  for (const { ref, shape, role, layer } of parameterShapes(spec)) {
    const n = shape.reduce((a, b) => a * b, 1);
    totalParameters += n;
    if (!chosen(role, sliceKey(ref))) continue;
    keys.push(sliceKey(ref));
    parameters += n;
    lowestLayer = Math.min(lowestLayer, Math.max(0, layer));
  }
  if (keys.length === 0) throw new ConfigError("nothing to train: the selection is empty");
  return { type, keys, experts, parameters, totalParameters, lowestLayer };
}
