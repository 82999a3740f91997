// Which experts train: layer → expert ids. Layers are 0-based decoder layers, expert ids are global.
//
// Two file formats: ours (scores, rule and base kept) and the official expert_cfg.json, whose lists are in rank order and
// whose layer keys are strings in lexicographic order.
import { instanceArgument, listArgument, optionsArgument, pathArgument, textArgument } from "../arguments.ts";
import { z } from "zod";
import { ConfigError } from "../errors.ts";
import { writeFileAtomic } from "../files/atomic.ts";
import { checkSchema, formatJson, readJsonFile } from "../files/json.ts";
import type { ModelSpec } from "../model/spec.ts";
import { moeLayers, moeOf } from "../model/spec.ts";

export interface LayerExperts {
  /** Ascending. */
  readonly ids: readonly number[];
  /** The same ids in the order in which they were chosen (best first). */
  readonly ranked: readonly number[];
  /** Score of each ranked id, when known. */
  readonly scores?: readonly number[] | undefined;
}

/** Which layers of a model have routed experts, and how many each: 0-based decoder layer → experts, ascending. */
export type ExpertLayout = ReadonlyMap<number, number>;

export function expertLayout(spec: ModelSpec): ExpertLayout {
  return new Map(moeLayers(spec).map((l) => [l, moeOf(spec, l)!.experts.length]));
}

const Id = z.int().min(0);
const JsonValue = z.json();

const Ours = z.strictObject({
  format: z.literal("esft-experts"),
  version: z.literal(1),
  rule: z.record(z.string(), JsonValue).optional(),
  base: z.string().optional(),
  sharedExperts: z.boolean(),
  nonExpertModules: z.boolean(),
  warnings: z.array(z.string()).readonly().optional(),
  layers: z.array(z.strictObject({ layer: Id, experts: z.array(Id).readonly(), scores: z.array(z.number()).readonly().optional() })),
});

const Official = z.strictObject({
  experts: z.record(z.string().regex(/^(0|[1-9]\d*)$/, "expected a layer index as key"), z.array(Id)),
  shared_experts: z.boolean(),
  non_expert_modules: z.boolean(),
});

export type ExpertSetJson = z.output<typeof Ours>;
export type SelectionRule = Readonly<Record<string, z.output<typeof JsonValue>>>;

export interface ExpertSetInit {
  readonly layers: Iterable<readonly [layer: number, experts: Omit<LayerExperts, "ids">]>;
  readonly sharedExperts?: boolean | undefined;
  readonly nonExpertModules?: boolean | undefined;
  /** How the set came about: score, p, compat …; for records only. */
  readonly rule?: SelectionRule | undefined;
  /** Fingerprint of the base the scores were measured on. */
  readonly base?: string | undefined;
  readonly warnings?: readonly string[] | undefined;
}

/** An immutable, checked selection of experts. */
export class ExpertSet {
  /** Ascending by layer. Layers without a selected expert may be present with an empty list. */
  readonly layers: ReadonlyMap<number, LayerExperts>;
  readonly sharedExperts: boolean;
  readonly nonExpertModules: boolean;
  readonly rule: SelectionRule | undefined;
  readonly base: string | undefined;
  readonly warnings: readonly string[];

  /** @param source what an error names: its file */
  constructor(asked: ExpertSetInit, source = "expert set") {
    textArgument(source, "ExpertSet: source");
    const init = optionsArgument(asked, `${source}: init`);
    const given = listArgument(init.layers, `${source}: layers`).map((entry) => {
      const [layer, experts] = listArgument<unknown>(entry, `${source}: layers`);
      const { ranked, scores } = optionsArgument(experts as Omit<LayerExperts, "ids">, `${source}: layers`);
      return [layer as number, { ranked: listArgument(ranked, `${source}: layers.ranked`), scores }] as const;
    });
    const layers = new Map<number, LayerExperts>();
    for (const [layer, { ranked, scores }] of given.sort(([a], [b]) => a - b)) {
      const fail = (fault: string): never => {
        throw new ConfigError(`${source}, layer ${layer}: ${fault}`, { where: { file: source, layer } });
      };
      if (!isId(layer)) fail("expected a 0-based layer index");
      if (layers.has(layer)) fail("expected each layer once, found it twice");
      const ids = [...ranked].sort((a, b) => a - b);
      const odd = ids.find((id) => !isId(id));
      if (odd !== undefined) fail(`expected expert ids >= 0, found ${odd}`);
      const twice = ids.find((id, i) => id === ids[i - 1]);
      if (twice !== undefined) fail(`expected each expert once, found ${twice} twice`);
      if (scores && scores.length !== ranked.length) fail(`expected ${ranked.length} scores, found ${scores.length}`);
      layers.set(layer, { ids, ranked: [...ranked], ...(scores ? { scores: [...scores] } : {}) });
    }
    this.layers = layers;
    this.sharedExperts = init.sharedExperts ?? false;
    this.nonExpertModules = init.nonExpertModules ?? false;
    this.rule = init.rule;
    this.base = init.base;
    this.warnings = init.warnings ?? [];
  }

  /** Selected ids of a layer, ascending; empty when the layer is not selected. */
  ids(layer: number): readonly number[] {
    return this.layers.get(layer)?.ids ?? [];
  }

  has(layer: number, expert: number): boolean {
    return this.ids(layer).includes(expert);
  }

  /** Number of selected experts over all layers. */
  get count(): number {
    return [...this.layers.values()].reduce((n, { ids }) => n + ids.length, 0);
  }

  /** The same experts with the official file's two switches changed. */
  with(changes: { readonly sharedExperts?: boolean; readonly nonExpertModules?: boolean }): ExpertSet {
    return new ExpertSet({ ...this, layers: this.layers, ...optionsArgument(changes, "experts.with: changes") });
  }

  /** True when both select the same experts and switches, whatever the order and rule. */
  equals(other: ExpertSet): boolean {
    instanceArgument(other, ExpertSet, "experts.equals: other");
    const flat = (s: ExpertSet) =>
      JSON.stringify([[...s.layers].filter(([, e]) => e.ids.length > 0).map(([l, e]) => [l, e.ids]), s.sharedExperts, s.nonExpertModules]);
    return flat(this) === flat(other);
  }

  /** @throws ConfigError a layer is not a sparse layer of the model, or an id is not one of its experts */
  validate(layout: ExpertLayout): void {
    instanceArgument(layout, Map, "experts.validate: layout");
    const fail = (fault: string, where: { readonly layer: number; readonly expert?: number }): never => {
      throw new ConfigError(`expert set${fault}; was it made for another model?`, { where });
    };
    for (const [layer, { ids }] of this.layers) {
      const experts =
        layout.get(layer) ?? fail(`: expected layers with routed experts (${ranges([...layout.keys()])}), found layer ${layer}`, { layer });
      const beyond = ids.find((id) => id >= experts);
      if (beyond !== undefined) fail(`, layer ${layer}: expected expert ids below ${experts}, found ${beyond}`, { layer, expert: beyond });
    }
    if (this.count === 0 && !this.sharedExperts && !this.nonExpertModules)
      throw new ConfigError(
        `expert set: expected something to train, found no expert and both switches off; name experts, or set sharedExperts or nonExpertModules`,
      );
  }

  /** What is absent is undefined: JSON leaves it out. */
  toJSON(): ExpertSetJson {
    return {
      format: "esft-experts",
      version: 1,
      rule: this.rule && { ...this.rule },
      base: this.base,
      sharedExperts: this.sharedExperts,
      nonExpertModules: this.nonExpertModules,
      warnings: this.warnings.length > 0 ? this.warnings : undefined,
      layers: [...this.layers].map(([layer, { ranked, scores }]) => ({ layer, experts: ranked, scores })),
    };
  }

  static fromJSON(value: unknown, file = "expert set"): ExpertSet {
    textArgument(file, "ExpertSet.fromJSON: file");
    const json = checkSchema(Ours, value, file, ConfigError);
    const layers = json.layers.map((l) => [l.layer, { ranked: l.experts, scores: l.scores }] as const);
    return new ExpertSet({ ...json, layers }, file);
  }

  /** The bytes of an official expert_cfg.json: rank order, lexicographic keys, Python's separators. */
  toEsftConfig(): string {
    const keys = [...this.layers.keys()].map(String).sort(); // "1", "10", "11", …, "2"
    const experts = keys.map((key) => `"${key}": [${this.layers.get(Number(key))!.ranked.join(", ")}]`);
    return `{"experts": {${experts.join(", ")}}, "shared_experts": ${this.sharedExperts}, "non_expert_modules": ${this.nonExpertModules}}`;
  }

  static fromEsftConfig(value: unknown, file = "expert_cfg.json"): ExpertSet {
    textArgument(file, "ExpertSet.fromEsftConfig: file");
    const json = checkSchema(Official, value, file, ConfigError);
    const layers = Object.entries(json.experts).map(([layer, ranked]) => [Number(layer), { ranked }] as const);
    return new ExpertSet({ layers, sharedExperts: json.shared_experts, nonExpertModules: json.non_expert_modules }, file);
  }

  /** Writes our format, or the official one with `format: "esft"`. */
  async save(path: string, options: { readonly format?: "native" | "esft" } = {}): Promise<void> {
    pathArgument(path, "experts.save: path");
    optionsArgument(options, "experts.save: options");
    await writeFileAtomic(path, options.format === "esft" ? this.toEsftConfig() : formatJson(this.toJSON()));
  }

  /** Reads either format. @throws ConfigError, IoError */
  static async load(path: string): Promise<ExpertSet> {
    pathArgument(path, "ExpertSet.load: path");
    const value = await readJsonFile(path, ConfigError);
    const ours = typeof value === "object" && value !== null && "format" in value;
    return ours ? ExpertSet.fromJSON(value, path) : ExpertSet.fromEsftConfig(value, path);
  }
}

const isId = (n: number) => Number.isSafeInteger(n) && n >= 0;

/** Ascending layers in words: "1 to 26", "0, 2, 5". */
export function ranges(layers: readonly number[]): string {
  if (layers.length === 0) return "none";
  const [first, last] = [layers[0]!, layers.at(-1)!];
  return layers.length > 1 && last - first + 1 === layers.length ? `${first} to ${last}` : layers.join(", ");
}
