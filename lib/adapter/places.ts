// What the tensors of a base are to its model, for adapters that name tensors and say no more: the model's description tells, no name
// is interpreted here.
import { join } from "node:path";
import { LayoutError } from "../errors.ts";
import type { Checkpoint } from "../files/checkpoint.ts";
import { sliceKey } from "../files/slice.ts";
import { modelSpec } from "../model/families/index.ts";
import type { ParameterShape } from "../model/spec.ts";
import { parameterShapes } from "../model/spec.ts";

/** Every parameter of a base by the key of its slice. @throws ConfigError an architecture that is not supported */
export function parametersOf(base: Checkpoint): Map<string, ParameterShape> {
  const spec = modelSpec(base.config, join(base.dir, "config.json"));
  return new Map(parameterShapes(spec).map((p) => [sliceKey(p.ref), p]));
}

export function noParameter(key: string, base: Checkpoint): LayoutError {
  return new LayoutError(
    `adapter: expected tensors that are parameters of the base model ${base.dir}, found "${key}"; is the adapter for another base?`,
    { where: { tensor: key, file: base.dir } },
  );
}
