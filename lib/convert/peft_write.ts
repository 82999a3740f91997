// Our LoRA adapters as PEFT 0.21 reads them: adapter_config.json and adapter_model.safetensors. Routed experts go into the stacks of
// transformers 5 (peft_stacks.ts): per-matrix terms of gate and up become one of twice the rank with a block-diagonal B, experts without
// terms are zeros. That is exact for inference; trained on, it is another parametrisation. Or, with layout "per-expert", into modules of
// their own under the checkpoint's names, as transformers 4 has them.

import { instanceArgument, optionsArgument, pathArgument } from "../arguments.ts";
import { join } from "node:path";
import { Adapter } from "../adapter/adapter.ts";
import { ConfigError, LayoutError } from "../errors.ts";
import { writeFileAtomic, writeGroupAtomic } from "../files/atomic.ts";
import type { Checkpoint } from "../files/checkpoint.ts";
import { checkpointArgument } from "../files/checkpoint.ts";
import { decodeFloats, encodeFloats } from "../files/floats.ts";
import { formatJson } from "../files/json.ts";
import { writeSafetensors } from "../files/safetensors_writer.ts";
import type { TensorEntry } from "../files/safetensors_writer.ts";
import { sliceKey } from "../files/slice.ts";
import { attachingMethod } from "../methods/attachments.ts";
import type { LoraMatrix } from "../methods/lora_targets.ts";
import { moduleOf } from "../methods/lora_targets.ts";
import { checkpointSpec, gateUpKey, peftNames } from "../model/families/index.ts";
import type { PeftNames } from "../model/families/index.ts";
import type { ModelSpec } from "../model/spec.ts";
import { moeLayers, moeOf } from "../model/spec.ts";
import type { LongTask } from "../task.ts";
import { PEFT_CONFIG, PEFT_WEIGHTS } from "./peft_config.ts";
import { fuseHalves, stack } from "./peft_stacks.ts";
import type { Factors } from "./peft_stacks.ts";

const GROUP = "peft-adapter";

/** One target of PEFT: a module, or a parameter of one, with its factors. */
interface Target {
  /** Of its tensors, below base_model.model. */
  readonly path: string;
  /** As the configuration names it. */
  readonly name: string;
  readonly isParameter: boolean;
  readonly shape: readonly [out: number, input: number];
  readonly experts: number;
  readonly rank: number;
  readonly scaling: number;
  readonly read: () => Promise<Factors>;
}

const refuse = (why: string): never => {
  throw new LayoutError(`PEFT cannot express this adapter: ${why}`, { where: { key: "method" } });
};

export interface PeftOptions extends LongTask {
  /** Routed experts as stacks of transformers 5 (default), or as a module each, as in transformers 4. */
  readonly layout?: "stacked" | "per-expert" | undefined;
}

/**
 * Writes a PEFT folder. @throws LayoutError an adapter that PEFT 0.21 cannot express whole, with the reason · NonFiniteError · IoError
 */
export async function savePeftAdapter(adapter: Adapter, base: Checkpoint, dir: string, options: PeftOptions = {}): Promise<void> {
  instanceArgument(adapter, Adapter, "savePeftAdapter: adapter");
  checkpointArgument(base, "savePeftAdapter: base");
  pathArgument(dir, "savePeftAdapter: dir");
  optionsArgument(options, "savePeftAdapter: options");
  await adapter.checkBase(base, options);
  if (adapter.tensors.size > 0) refuse("it replaces weights of the base, which only a merge can do");
  if (adapter.method.type !== "lora") refuse(`it is of method "${adapter.method.type}", PEFT has LoRA`);
  const spec = checkpointSpec(base);
  const known = attachingMethod(spec, adapter.method, adapter.experts);
  const names = peftNames(spec.modelType);
  if (!names || known.type !== "lora") return refuse(`the names of modules of ${spec.modelType} models in transformers are not known here`);
  if (known.condensers) refuse("it has a bias on the choice of experts, which PEFT has no place for");
  const { layout = "stacked" } = options;
  if (layout !== "stacked" && layout !== "per-expert")
    throw new ConfigError(`savePeftAdapter: layout must be "stacked" or "per-expert", found ${JSON.stringify(layout)}`, {
      where: { key: "layout" },
    });
  const targets = targetsOf(spec, layout === "stacked" ? names : null, adapter, known.matrices);
  const entries = targets.flatMap(({ path, shape: [out, input], experts, rank, read }): TensorEntry[] => {
    const entry = (part: "A" | "B", shape: number[], of: (f: Factors) => Float32Array): TensorEntry => ({
      name: `base_model.model.${path}.lora_${part}.weight`,
      dtype: "F32",
      shape,
      data: async () => encodeFloats(of(await read()), "F32"),
    });
    const r = rank * experts;
    return [entry("A", [r, input], (f) => f.a), entry("B", [out, r], (f) => f.b)];
  });
  const bytes = entries.reduce((n, { shape }) => n + 4 * shape.reduce((a, b) => a * b, 1), 0);
  await writeGroupAtomic(
    dir,
    GROUP,
    async (temp) => {
      await writeSafetensors(join(temp, PEFT_WEIGHTS), entries, { metadata: { format: "pt" }, hash: false, signal: options.signal });
      await writeFileAtomic(join(temp, PEFT_CONFIG), formatJson(configOf(targets, adapter.base.name ?? base.dir)));
    },
    { bytes, owned: (name) => name === PEFT_WEIGHTS },
  );
}

/** @param names null: those of the checkpoint, every matrix a module */
function targetsOf(spec: ModelSpec, names: PeftNames | null, adapter: Adapter, matrices: readonly LoraMatrix[]): Target[] {
  const byKey = new Map(matrices.map((m) => [m.key, m]));
  const factors = async ({ key, rank, scaling }: LoraMatrix): Promise<Factors> => {
    const read = async (name: string): Promise<Float32Array> => decodeFloats(await adapter.read(name), adapter.attached.get(name)!.dtype);
    return { a: await read(`lora.${key}.A`), b: await read(`lora.${key}.B`), rank, scaling };
  };
  const plain = matrices
    .filter((m) => !names || m.place.role !== "expert")
    .map((m): Target => {
      const path = names ? names.module(moduleOf(m.key)) : moduleOf(m.key);
      const isParameter = names !== null && m.place.role === "router" && names.routerIsParameter;
      if (/\[/.test(path) || (m.place.role === "expert" && m.place.part === undefined))
        refuse(`"${m.key}" is a part of a fused tensor, or of several`);
      if (!isParameter && names?.rewritten(path))
        refuse(
          `PEFT 0.21 takes "${path}" for routed experts when it loads an adapter of a ${spec.modelType} model, and leaves the module itself out`,
        );
      const { shape, rank, scaling } = m;
      return { path, name: isParameter ? `${path}.weight` : path, isParameter, shape, experts: 1, rank, scaling, read: () => factors(m) };
    });
  if (!names) return plain;
  return [...plain, ...moeLayers(spec).flatMap((layer) => stacksOf(spec, layer, names, byKey, factors))];
}

/** gate over up, and down, of all experts of a layer, as far as some expert has a term there. */
function stacksOf(
  spec: ModelSpec,
  layer: number,
  names: PeftNames,
  byKey: ReadonlyMap<string, LoraMatrix>,
  factors: (m: LoraMatrix) => Promise<Factors>,
): Target[] {
  const { experts, expertHidden: F } = moeOf(spec, layer)!;
  const D = spec.hidden;
  const read = (key: string): Promise<Factors> | undefined => {
    const m = byKey.get(key);
    return m && factors(m);
  };
  const keysOf = (e: (typeof experts)[number]): { whole: string; halves: readonly [string, string] | null; down: string } => {
    if ("gateUp" in e) return refuse(`experts of ${spec.modelType} models lie transposed`);
    return { whole: gateUpKey(e), halves: [sliceKey(e.gate), sliceKey(e.up)], down: sliceKey(e.down) };
  };
  const keys = experts.map(keysOf);
  const module = names.experts(experts[0]!.down);
  const ranksOf = (of: readonly string[]): number => of.reduce((n, key) => n + (byKey.get(key)?.rank ?? 0), 0);
  const firstScaling = (of: readonly string[]): number | undefined => of.flatMap((key) => byKey.get(key)?.scaling ?? [])[0];
  const make = (
    parameter: string,
    path: string,
    shape: readonly [number, number],
    own: readonly (readonly string[])[],
    readAll: () => Promise<Factors>,
  ): Target[] => {
    const rank = Math.max(...own.map(ranksOf));
    if (rank === 0) return [];
    const scaling = firstScaling(own.flat())!;
    return [{ path, name: `${module}.${parameter}`, isParameter: true, shape, experts: experts.length, rank, scaling, read: readAll }];
  };
  const gateUpKeys = keys.map(({ whole, halves }) => (byKey.has(whole) ? [whole] : (halves ?? [])));
  const downKeys = keys.map(({ down }) => [down]);
  const readGateUp = async (): Promise<Factors> => {
    const all = await Promise.all(
      gateUpKeys.map(async (own) => {
        const [first, second] = await Promise.all(own.map(read));
        return own.length === 1 ? first : fuseHalves(first, second, F);
      }),
    );
    return stack(all, [2 * F, D]);
  };
  const readDown = async (): Promise<Factors> => stack(await Promise.all(keys.map(({ down }) => read(down))), [D, F]);
  const down = make(names.down, module, [D, F], downKeys, readDown);
  // The inner wrapper where both are adapted.
  const gateUp = make(names.gateUp, down.length > 0 ? `${module}.base_layer` : module, [2 * F, D], gateUpKeys, readGateUp);
  return [...gateUp, ...down];
}

function configOf(targets: readonly Target[], base: string): object {
  const [first] = targets;
  const { rank: r } = first!;
  const alpha = first!.scaling * r;
  const pattern = (of: (t: Target) => number, usual: number): Record<string, number> =>
    Object.fromEntries(targets.filter((t) => of(t) !== usual).map((t) => [t.name.replace(/\./g, "\\."), of(t)]));
  return {
    peft_type: "LORA",
    task_type: "CAUSAL_LM",
    peft_version: "0.21.2",
    base_model_name_or_path: base,
    inference_mode: true,
    r,
    lora_alpha: alpha,
    lora_dropout: 0,
    rank_pattern: pattern((t) => t.rank, r),
    alpha_pattern: pattern((t) => t.scaling * t.rank, alpha),
    use_rslora: false,
    use_dora: false,
    bias: "none",
    fan_in_fan_out: false,
    init_lora_weights: true,
    modules_to_save: null,
    target_modules: targets.filter((t) => !t.isParameter).map((t) => t.name),
    target_parameters: targets.filter((t) => t.isParameter).map((t) => t.name),
  };
}
