// Stages of a run: the method says what can train, each stage which of it does. Everything that some stage trains has a master, a gradient
// and moments for the whole run; what a stage does not train has no gradient while it lasts and keeps the values that earlier ones gave it.
//
// A stage names things as LoRA's targets do: groups by what they are to the model, names of modules, regular expressions. Base parameters
// that no stage names stay frozen; low-rank terms and selected experts that none names are refused, since the method was asked for them.

import { ConfigError, LayoutError } from "../errors.ts";
import { sliceKey } from "../files/slice.ts";
import { planActivations } from "../model/decoder.ts";
import type { ModelSpec, ParameterRole } from "../model/spec.ts";
import { parameterShapes } from "../model/spec.ts";
import { nearest } from "../options/suggest.ts";
import { LORA_GROUPS, moduleOf, nameMatcher } from "./lora_targets.ts";
import { byRole, trainable } from "./method.ts";
import type { Stage, TrainableSpec } from "./method.ts";

const GROUPS: Readonly<Record<string, readonly ParameterRole[]>> = { ...LORA_GROUPS, embedding: ["embedding"], norms: ["norm"] };

interface Candidate {
  readonly key: string;
  readonly role: ParameterRole;
  readonly layer: number;
  readonly shape: readonly number[];
  readonly attached: boolean;
  readonly names: readonly string[];
}

function candidates(spec: ModelSpec, { keys, attachments }: TrainableSpec): Candidate[] {
  const trained = new Set(keys);
  const base = parameterShapes(spec).flatMap(({ ref, role, layer, shape }): Candidate[] => {
    const key = sliceKey(ref);
    return trained.has(key) ? [{ key, role, layer, shape, attached: false, names: [...new Set([moduleOf(key), moduleOf(ref.name)])] }] : [];
  });
  const beside = (attachments?.parameters ?? []).map(({ key, place: { role, layer }, shape, target }): Candidate => {
    const own = moduleOf(key.replace(/^lora\.|\.[AB]$/g, ""));
    return { key, role, layer, shape, attached: true, names: [...new Set([own, ...(target ? [moduleOf(target.name)] : [])])] };
  });
  return [...base, ...beside];
}

function named(all: readonly Candidate[], target: string, stage: number): Candidate[] {
  const key = `stages.${stage}.targets`;
  const fail = (message: string, cause?: unknown): never => {
    throw new ConfigError(`stage ${stage + 1}: target "${target}" ${message}`, { where: { key }, cause });
  };
  const roles = Object.hasOwn(GROUPS, target) ? GROUPS[target] : undefined;
  const matches = nameMatcher(target, fail);
  const found = all.filter(({ role, names }) => (roles ? roles.includes(role) : matches(names)));
  if (found.length > 0) return found;
  const groups = Object.keys(GROUPS).filter((group) => all.some(({ role }) => GROUPS[group]!.includes(role)));
  const leaves = new Set(all.flatMap(({ names }) => names.map((name) => name.split(".").at(-1) ?? "")));
  const near = nearest(target, [...groups, ...leaves]);
  return fail(
    `names nothing that the method trains${near === undefined ? "" : `; did you mean "${near}"?`} (groups there: ${groups.join(", ")})`,
  );
}

/**
 * The method with its stages, each given by what it trains.
 * @throws ConfigError a stage that trains nothing, a target that matches nothing, terms or experts in no stage, ranks that are re-allocated
 */
export function withStages(spec: ModelSpec, method: TrainableSpec, stages: readonly (readonly string[])[]): TrainableSpec {
  const all = candidates(spec, method);
  if (method.reallocation)
    throw new ConfigError("reallocate is not served together with stages: its averages are those of a whole run; leave one of them out", {
      where: { key: "stages" },
    });
  if (method.condensing)
    throw new ConfigError("condensers are not served together with stages: their biases move with every update; leave one of them out", {
      where: { key: "stages" },
    });
  const found = stages.map((targets, i) => {
    if (targets.length === 0)
      throw new ConfigError(`stage ${i + 1} trains nothing: expected at least one target, found none`, {
        where: { key: `stages.${i}.targets` },
      });
    return new Set(targets.flatMap((target) => named(all, target, i)));
  });
  const inNone = all.filter((c) => found.every((of) => !of.has(c)));
  const routers = ["train", "ste"].includes(String(method.options["router"]));
  const asked = inNone.find(
    ({ attached, role }) => attached || (role === "expert" && method.type === "esft") || (role === "router" && routers),
  );
  if (asked)
    throw new ConfigError(
      `no stage trains "${asked.key}", which the method was asked for: name it in a stage${asked.attached ? ", or take it out of the method" : ""}`,
      { where: { key: "stages" } },
    );
  const dropped = new Set(inNone.map(({ key }) => key));
  const kept = new Set(method.keys.filter((key) => !dropped.has(key)));
  const union = trainable(spec, method, (_, key) => kept.has(key));
  return {
    ...union,
    stages: found.map((of, i): Stage => {
      const own = [...of];
      requireWhole(spec, method, own, i);
      if (method.type === "perft") requireWholeLayers(all, own, i);
      return { keys: new Set(own.map(({ key }) => key)), roles: byRole(own), lowestLayer: lowestOf(spec, own) };
    }),
  };
}

/** Adapters of PERFT share their products in a layer. @throws ConfigError a stage names some of them alone */
function requireWholeLayers(all: readonly Candidate[], own: readonly Candidate[], stage: number): void {
  const chosen = new Set(own);
  const odd = all.find((c) => c.attached && !chosen.has(c) && own.some((o) => o.attached && o.layer === c.layer && o.role === c.role));
  if (odd)
    throw new ConfigError(`stage ${stage + 1}: the adapters of a layer train together or not at all: name "${odd.key}" too, or the group`, {
      where: { key: `stages.${stage}.targets` },
    });
}

const lowestOf = (spec: ModelSpec, own: readonly Candidate[]): number =>
  Math.min(spec.layers.length, ...own.map(({ layer }) => Math.max(0, layer)));

/** What trains together or not at all is in a stage together. @throws ConfigError */
function requireWhole(spec: ModelSpec, { attachments }: TrainableSpec, own: readonly Candidate[], stage: number): void {
  const keys = own.filter(({ attached }) => !attached).map(({ key }) => key);
  try {
    planActivations(spec, { keys, attachments, lowestLayer: lowestOf(spec, own) });
  } catch (error) {
    if (!(error instanceof LayoutError)) throw error;
    throw new ConfigError(`stage ${stage + 1}: ${error.message}`, { where: { key: `stages.${stage}.targets` }, cause: error });
  }
}
