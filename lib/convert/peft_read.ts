// A LoRA folder of PEFT as one of our adapters: every tensor of it has a place in the base, and every module that its configuration
// names has its tensors, or it is refused as a whole.
//
// Routed experts come in two layouts: a module per expert (transformers 4: …experts.3.up_proj), or stacks (transformers 5:
// peft_stacks.ts). Beside an adapted head PEFT saves the base's own matrix: it must be that of this base. What PEFT itself leaves out
// when it loads a folder (see peft_names.ts) is loaded here all the same.

import { pathArgument } from "../arguments.ts";
import { join } from "node:path";
import { Adapter } from "../adapter/adapter.ts";
import type { AttachedTensor } from "../adapter/tensors.ts";
import type { Checkpoint } from "../files/checkpoint.ts";
import { checkpointArgument } from "../files/checkpoint.ts";
import { layoutFault } from "../files/fault.ts";
import { castFloats, decodeFloats, encodeFloats } from "../files/floats.ts";
import type { SafetensorsFile } from "../files/safetensors.ts";
import { openSafetensors, tensorBytes } from "../files/safetensors.ts";
import { sliceKey } from "../files/slice.ts";
import { attachmentsOf } from "../methods/attachments.ts";
import type { Adaptable, ExpertTerms, LoraMatrix } from "../methods/lora_targets.ts";
import { adaptableMatrices, isCalled, loraMatrices, moduleOf, TIED_HEAD } from "../methods/lora_targets.ts";
import { checkpointSpec, peftNames } from "../model/families/index.ts";
import type { PeftNames } from "../model/families/index.ts";
import type { ModelSpec } from "../model/spec.ts";
import { moeLayers, moeOf } from "../model/spec.ts";
import { DequantisedCheckpoint } from "../quantised.ts";
import { PEFT_CONFIG, PEFT_WEIGHTS, readPeftConfig, termOf } from "./peft_config.ts";
import type { PeftConfig } from "./peft_config.ts";
import { loraOptionsOf } from "./peft_options.ts";
import { unstack } from "./peft_stacks.ts";
import type { Factors } from "./peft_stacks.ts";

/** One that the folder adapts. */
export interface PeftTerm {
  readonly matrix: Adaptable;
  readonly rank: number;
  readonly alpha: number;
  readonly scaling: number;
  readonly factors: () => Promise<Factors>;
}

/**
 * @throws LayoutError a folder that cannot be honoured whole: another method, options that are not served, tensors of no place in the
 * base or of other shapes, modules without tensors · IoError
 */
export async function readPeftAdapter(dir: string, base: Checkpoint): Promise<Adapter> {
  pathArgument(dir, "readPeftAdapter: dir");
  checkpointArgument(base, "readPeftAdapter: base");
  const path = join(dir, PEFT_CONFIG);
  const config = await readPeftConfig(path);
  const file = await openSafetensors(join(dir, PEFT_WEIGHTS));
  const spec = checkpointSpec(base);
  const names = peftNames(spec.modelType);
  if (!names) throw layoutFault(path, `the names of modules of ${spec.modelType} models in transformers are not known here`);
  const folder = new Folder(spec, names, config, path, file);
  const terms = folder.terms();
  folder.requireAll(terms);
  await folder.requireCopies(base);
  const { expertTerms } = folder;
  const attached = terms.flatMap(({ matrix, rank, factors }): AttachedTensor[] => {
    const { key, shape, place, target } = matrix;
    const tensor = (part: "A" | "B", of: (f: Factors) => Float32Array): AttachedTensor => ({
      name: `lora.${key}.${part}`,
      layer: place.layer,
      ...(target ? { target } : {}),
      dtype: "F32",
      shape: part === "A" ? [rank, shape[1]] : [shape[0], rank],
      read: async () => encodeFloats(of(await factors()), "F32"),
    });
    return [tensor("A", (f) => f.a), tensor("B", (f) => f.b)];
  });
  const options = loraOptionsOf(adaptableMatrices(spec, expertTerms), terms, config, expertTerms);
  requireSame(loraMatrices(spec, options), terms, path);
  const method = { type: "lora", ...options };
  const adapter = new Adapter({
    method,
    base: { identity: null, ...(typeof config.base_model_name_or_path === "string" ? { name: config.base_model_name_or_path } : {}) },
    experts: null,
    attached,
    createdBy: "PEFT",
  });
  attachmentsOf(spec, adapter.method, adapter.attached); // the options say what the file holds, or nothing is loaded
  return adapter;
}

/** The options mean what the folder does, matrix by matrix. @throws LayoutError a rank or factor that is another */
function requireSame(matrices: readonly LoraMatrix[], terms: readonly PeftTerm[], path: string): void {
  const byKey = new Map(matrices.map((m) => [m.key, m]));
  for (const { matrix, rank, scaling } of terms) {
    const m = byKey.get(matrix.key);
    if (m?.rank !== rank || m.scaling !== scaling)
      throw layoutFault(
        path,
        `expected rank ${rank} and factor ${scaling} beside "${matrix.key}", found ${m?.rank} and ${m?.scaling} by names of ours`,
      );
  }
}

class Folder {
  readonly expertTerms: ExpertTerms;
  private readonly spec: ModelSpec;
  private readonly config: PeftConfig;
  private readonly path: string;
  private readonly file: SafetensorsFile;
  /** Module → matrix; the names of both major versions of transformers. */
  private readonly modules: ReadonlyMap<string, Adaptable>;
  /** Module of all experts → layer. */
  private readonly stacks: ReadonlyMap<string, number>;
  private readonly names: PeftNames;
  /** Modules of the file. */
  private readonly found: readonly string[];
  /** Matrices of the base that the file repeats, by module. */
  private readonly copies: string[] = [];
  /** Matrices as one expert's, by layer, expert and part. */
  private readonly routed = new Map<string, Adaptable>();

  constructor(spec: ModelSpec, names: PeftNames, config: PeftConfig, path: string, file: SafetensorsFile) {
    this.spec = spec;
    this.names = names;
    this.config = config;
    this.path = path;
    this.file = file;
    this.stacks = new Map(moeLayers(spec).map((l) => [names.experts(moeOf(spec, l)!.experts[0]!.down), l]));
    this.found = this.modulesOfFile();
    const inStacks = this.found.some((module) => this.stacks.has(bare(module)));
    this.expertTerms = inStacks ? "fused" : "matrix";
    const modules = new Map<string, Adaptable>();
    for (const m of adaptableMatrices(spec, this.expertTerms)) {
      const module = moduleOf(m.key);
      const { role, layer, expert, part } = m.place;
      if (role === "expert") this.routed.set(`${layer} ${expert} ${part ?? "gateUp"}`, m);
      if (role === "expert" && inStacks) continue;
      modules.set(module, m).set(names.module(module), m);
    }
    this.modules = modules;
  }

  private fail(fault: string, tensor?: string): never {
    throw layoutFault(this.file.path, fault, tensor);
  }

  /** @throws LayoutError a tensor that is no factor of LoRA, or one without the other */
  private modulesOfFile(): string[] {
    const parts = new Map<string, Set<string>>();
    for (const key of this.file.tensors.keys()) {
      const copied = /^base_model\.model\.(.+)\.base_layer\.weight$/.exec(key)?.[1];
      if (copied !== undefined) {
        this.copies.push(copied);
        continue;
      }
      const [, module, part] = /^base_model\.model\.(.+)\.lora_(A|B)(?:\.default)?\.weight$/.exec(key) ?? [];
      if (module === undefined || part === undefined)
        this.fail("expected factors of LoRA (base_model.model.….lora_A.weight) alone, found another tensor", key);
      parts.set(module, (parts.get(module) ?? new Set()).add(part));
    }
    for (const [module, own] of parts) {
      const missing = ["A", "B"].find((part) => !own.has(part));
      if (missing !== undefined)
        this.fail("expected this tensor beside the other factor, found no such tensor", this.nameOf(module, missing));
    }
    if (parts.size === 0) this.fail("expected factors of LoRA, found none");
    return [...parts.keys()];
  }

  /** @throws LayoutError a matrix that is not the head's of this base, where this or another one was rounded too */
  async requireCopies(base: Checkpoint): Promise<void> {
    using source = new DequantisedCheckpoint(base);
    for (const module of this.copies) {
      const key = `base_model.model.${module}.base_layer.weight`;
      const { target, place } = this.modules.get(module) ?? {};
      if (!target || place?.role !== "head")
        this.fail("expected factors of LoRA (base_model.model.….lora_A.weight) alone, found another tensor", key);
      const [stored, found] = [source.tensors.get(target.name)!, this.file.tensors.get(key)!];
      const values = castFloats(await source.range(target.name, 0, tensorBytes(stored.dtype, stored.shape)!), stored.dtype, found.dtype);
      if (found.shape.join() !== stored.shape.join() || Buffer.compare(values, await this.file.read(key)) !== 0)
        this.fail(
          `expected "${target.name}" as this base has it, found other values: the head was trained too, or is of another base`,
          key,
        );
    }
  }

  private nameOf(module: string, part: string): string {
    const plain = `base_model.model.${module}.lora_${part}.weight`;
    const named = `base_model.model.${module}.lora_${part}.default.weight`;
    return this.file.tensors.has(named) ? named : plain;
  }

  /** @throws LayoutError a module that the base does not have, or of other shapes */
  terms(): PeftTerm[] {
    return this.found.flatMap((module): PeftTerm[] => {
      const layer = this.stacks.get(bare(module));
      if (layer !== undefined && this.expertTerms === "fused") return this.stackTerms(module, layer);
      const matrix = this.modules.get(module);
      if (!matrix && module.endsWith("head") && sliceKey(this.spec.head) === sliceKey(this.spec.embedding))
        this.fail(`this tensor stands beside ${TIED_HEAD}`, this.nameOf(module, "A"));
      if (!matrix)
        this.fail(
          `expected a module of this ${this.spec.modelType} model, found "${module}"; is the adapter for another base?`,
          this.nameOf(module, "A"),
        );
      const own = moduleOf(matrix.key);
      const names = [module, own, this.names.module(own)];
      this.requireNamed(module, names, names.map((name) => `${name}.weight`)); // prettier-ignore
      const isParameter = matrix.place.role === "router" && this.names.routerIsParameter;
      const term = termOf(this.config, isParameter && this.namesParameter(`${module}.weight`) ? `${module}.weight` : module, this.path);
      return [{ matrix, ...term, factors: this.reader(module, matrix.shape, term, 1) }];
    });
  }

  /** What transformers 4 calls the matrices of a stack: targets by those names are of the stack in transformers 5. */
  private partsOf(layer: number, isGateUp: boolean): string[] {
    return adaptableMatrices(this.spec, "matrix")
      .filter(({ place: { role, layer: l, part } }) => role === "expert" && l === layer && (part === "down") !== isGateUp)
      .flatMap(({ key }) => [moduleOf(key), this.names.module(moduleOf(key))]);
  }

  /** @throws LayoutError the configuration names neither the module nor a parameter of it, so that PEFT would leave its tensors out */
  private requireNamed(module: string, names: readonly string[], parameters: readonly string[]): void {
    const { target_modules: targets, target_parameters } = this.config;
    const none = targets === undefined || targets === null;
    if (none && (target_parameters ?? []).length === 0) return; // what PEFT takes for this kind of model
    if (parameters.some((name) => this.namesParameter(name))) return;
    if (typeof targets === "string" ? matchesAll(targets, names, this.path) : (targets ?? []).some((t) => isCalled(names, t))) return;
    this.fail(
      `expected tensors of what ${PEFT_CONFIG} targets alone, found "${module}", which neither target_modules nor target_parameters ` +
        "names: PEFT would leave it out",
      this.nameOf(module, "A"),
    );
  }

  private namesParameter(name: string): boolean {
    return (this.config.target_parameters ?? []).some((t) => isCalled([name], t));
  }

  /** The factors of a module; their shapes are looked at now. */
  private reader(
    module: string,
    [out, input]: readonly [number, number],
    term: ReturnType<typeof termOf>,
    E: number,
  ): () => Promise<Factors> {
    const [a, b] = [this.nameOf(module, "A"), this.nameOf(module, "B")];
    const r = term.rank * E;
    for (const [name, shape] of [
      [a, [r, input]],
      [b, [out, r]],
    ] as const) {
      const found = this.file.tensors.get(name)!.shape;
      if (found.join() !== shape.join()) this.fail(`expected [${shape.join(", ")}] (rank ${term.rank}), found [${found.join(", ")}]`, name);
    }
    const values = async (name: string): Promise<Float32Array> =>
      decodeFloats(await this.file.read(name), this.file.tensors.get(name)!.dtype);
    return async () => ({ a: await values(a), b: await values(b), rank: term.rank, scaling: term.scaling });
  }

  /** The inner wrapper is gate over up where both are adapted; one alone is told by its shape. */
  private stackTerms(module: string, layer: number): PeftTerm[] {
    const { experts, expertHidden: F } = moeOf(this.spec, layer)!;
    const D = this.spec.hidden;
    const both = this.found.includes(`${bare(module)}.base_layer`);
    const [outs] = [this.file.tensors.get(this.nameOf(module, "B"))!.shape[0]];
    const isGateUp =
      module.endsWith(".base_layer") || (!both && outs === 2 * F && (outs !== D || this.namesParameter(`${module}.${this.names.gateUp}`)));
    const shape = isGateUp ? ([2 * F, D] as const) : ([D, F] as const);
    const name = `${bare(module)}.${isGateUp ? this.names.gateUp : this.names.down}`;
    this.requireNamed(module, this.partsOf(layer, isGateUp), [name]);
    const term = termOf(this.config, name, this.path);
    const read = once(this.reader(module, shape, term, experts.length));
    return experts.map((_, e): PeftTerm => {
      const matrix = this.routed.get(`${layer} ${e} ${isGateUp ? "gateUp" : "down"}`);
      if (!matrix || matrix.shape.join() !== shape.join())
        return this.fail(`expected stacked experts as this ${this.spec.modelType} model has them`, this.nameOf(module, "A"));
      const factors = async (): Promise<Factors> => unstack(await read(), e, experts.length, shape);
      return { matrix, ...term, factors };
    });
  }

  /** @throws LayoutError the configuration names modules that have no tensors */
  requireAll(terms: readonly PeftTerm[]): void {
    const { target_modules: modules, target_parameters: parameters } = this.config;
    const has = new Set(terms.map(({ matrix }) => matrix.key));
    const fail = (target: string, module: string): never => {
      throw layoutFault(this.path, `target "${target}" names "${module}": expected its tensors in ${PEFT_WEIGHTS}, found none`);
    };
    // Modules of transformers 4 that transformers 5 has in stacks.
    const before = this.expertTerms === "fused" ? adaptableMatrices(this.spec, "matrix").map(({ key }) => moduleOf(key)) : [];
    const isModule = (target: string): boolean => isCalled(before, target);
    for (const target of Array.isArray(modules) ? modules : []) {
      const named = [...this.modules].filter(([name]) => isCalled([name], target));
      if (named.length === 0 && this.expertTerms === "fused" && isModule(target)) continue;
      if (named.length === 0) throw layoutFault(this.path, `target "${target}" names no module of this ${this.spec.modelType} model`);
      const routed = named.filter(([, m]) => m.place.role === "expert");
      const skipsRouted = routed.every(([, m]) => !has.has(m.key)) && named.length > routed.length;
      for (const [name, m] of named) if (!has.has(m.key) && !(skipsRouted && m.place.role === "expert")) fail(target, name);
    }
    for (const target of parameters ?? []) {
      const matches = (name: string): boolean => isCalled([name], target);
      let known = false;
      for (const [module, layer] of this.stacks)
        for (const [parameter, part] of [
          [this.names.gateUp, "gateUp"],
          [this.names.down, "down"],
        ] as const)
          if (matches(`${module}.${parameter}`)) {
            known = true;
            const matrix = this.routed.get(`${layer} 0 ${part}`);
            if (!matrix || !has.has(matrix.key)) fail(target, `${module}.${parameter}`);
          }
      for (const [name, m] of this.modules)
        if (matches(`${name}.weight`)) {
          known = true;
          if (!has.has(m.key)) fail(target, name);
        }
      if (!known) throw layoutFault(this.path, `target "${target}" names no parameter of this ${this.spec.modelType} model`);
    }
  }
}

/** The experts' module of an inner wrapper. */
const bare = (module: string): string => module.replace(/\.base_layer$/, "");

/** PEFT's one pattern for whole names, or its word for all of them. @throws LayoutError no pattern */
function matchesAll(pattern: string, names: readonly string[], path: string): boolean {
  if (pattern === "all-linear") return true;
  try {
    const whole = new RegExp(`^(?:${pattern})$`, "u");
    return names.some((name) => whole.test(name));
  } catch (error) {
    throw layoutFault(path, `target_modules ${JSON.stringify(pattern)} is no pattern that can be read here: ${(error as Error).message}`);
  }
}

/** The last result, for readers that come one after the other. */
function once<T>(read: () => Promise<T>): () => Promise<T> {
  let last: WeakRef<Promise<T> & object> | null = null;
  return () => {
    const kept = last?.deref();
    if (kept) return kept;
    const fresh = read();
    last = new WeakRef(fresh);
    return fresh;
  };
}
