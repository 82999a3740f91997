// Parameters without values: what a model that is not loaded is composed from, to plan its memory.

import { LayoutError } from "../../errors.ts";
import type { TensorSlice } from "../../files/slice.ts";
import { sliceKey } from "../../files/slice.ts";
import type { ModelSpec } from "../spec.ts";
import { parameterShapes } from "../spec.ts";
import type { AttachedSpec, ParameterSource } from "./parameter.ts";
import { Parameter, ParameterList } from "./parameter.ts";

export class PlannedParameters implements ParameterSource {
  private readonly byKey = new Map<string, Parameter>();

  /** @param trains keys of the base parameters that would train; of what is attached all does, unless `active` leaves it out */
  constructor(spec: ModelSpec, trains: Iterable<string>, attached: readonly AttachedSpec[], active: ReadonlySet<string> | null = null) {
    for (const { ref, shape, ...place } of parameterShapes(spec)) this.byKey.set(sliceKey(ref), new Parameter(sliceKey(ref), shape, place));
    for (const { key, shape, place } of attached) this.byKey.set(key, new Parameter(key, shape, place));
    for (const key of [...trains, ...attached.map((a) => a.key)]) this.find(key).trains = active?.has(key) ?? true;
  }

  private find(key: string): Parameter {
    const p = this.byKey.get(key);
    if (!p) throw new LayoutError(`the model has no parameter "${key}"`, { where: { tensor: key } });
    return p;
  }
  get(ref: TensorSlice): Parameter {
    return this.find(sliceKey(ref));
  }
  attached(key: string): Parameter {
    return this.find(key);
  }
  list(parameters: readonly Parameter[], what: "value" | "grad"): ParameterList {
    return new ParameterList(parameters, what, () => undefined);
  }
}
