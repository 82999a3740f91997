// Expert-Specialized Fine-Tuning (arXiv 2407.01906).

import { ConfigError } from "../errors.ts";
import { expertLayout } from "../experts/expert_set.ts";
import type { ExpertSet } from "../experts/expert_set.ts";
import type { ModelSpec, ParameterRole } from "../model/spec.ts";
import { moeLayers, moeOf } from "../model/spec.ts";
import { trainable } from "./method.ts";
import type { TrainableSpec } from "./method.ts";

const nonExpertRoles: ReadonlySet<ParameterRole> = new Set(["embedding", "attention", "norm", "router", "dense", "head"]);

/**
 * The selected routed experts; with the set's switches also the shared experts, and the non-expert modules (embedding, attention,
 * norms, router, dense layers, head), as in the official configuration.
 * @throws ConfigError the set does not fit the model, or names nothing that it has
 */
export function esftTrainable(spec: ModelSpec, experts: ExpertSet): TrainableSpec {
  if (moeLayers(spec).length === 0)
    throw new ConfigError(`ESFT needs a Mixture-of-Experts model; this ${spec.modelType} model has no sparse layer`);
  experts.validate(expertLayout(spec));
  const shared = moeLayers(spec).some((layer) => moeOf(spec, layer)!.shared !== undefined);
  if (experts.count === 0 && !experts.nonExpertModules && !shared)
    throw new ConfigError(
      `expert set: expected something to train, found no expert and sharedExperts: true, and this ${spec.modelType} model has no shared ` +
        `experts; name experts, or set nonExpertModules`,
    );
  return trainable(spec, { type: "esft", experts }, ({ role, layer, expert }) => {
    if (role === "expert") return expert !== undefined && experts.has(layer, expert);
    if (role === "shared") return experts.sharedExperts;
    return experts.nonExpertModules && nonExpertRoles.has(role);
  });
}
