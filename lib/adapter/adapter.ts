// An adapter: the full trained tensors (or slices of fused ones) under the base model's own names, tensors that a method attached, and
// what is needed to trust them: which base, which experts, how trained, the digest of everything that stayed frozen.
import { optionsArgument, pathArgument, shapeArgument, textArgument } from "../arguments.ts";
import { readFileSync } from "node:fs";
import { LayoutError } from "../errors.ts";
import { ExpertSet } from "../experts/expert_set.ts";
import type { Checkpoint } from "../files/checkpoint.ts";
import { checkpointArgument } from "../files/checkpoint.ts";
import { shownShape } from "../files/fault.ts";
import { hashCheckpoint, sameBase, shownIdentity } from "../files/hash.ts";
import { tensorBytes } from "../files/safetensors.ts";
import type { ShardOptions } from "../files/shards.ts";
import { placeSlice, placeSlices, sliceKey } from "../files/slice.ts";
import type { LongTask } from "../task.ts";
import { modelCard } from "./card.ts";
import { readFolder, writeFolder } from "./folder.ts";
import type { AdapterFacts, AdapterManifest } from "./manifest.ts";
import type { AdapterTensor, AttachedTensor } from "./tensors.ts";
import { adapterFault, checkExperts, NEED_EXPERTS, readFinite, sortedByKey } from "./tensors.ts";

/** What the manifest says of it (manifest.ts), and its tensors. */
export interface AdapterInit extends Omit<AdapterFacts, "createdBy" | "experts"> {
  readonly createdBy?: string | undefined;
  readonly experts: ExpertSet | null;
  /** What replaces slices of the base. */
  readonly tensors?: Iterable<AdapterTensor> | undefined;
  /** What stands beside the base's weights. */
  readonly attached?: Iterable<AttachedTensor> | undefined;
}

export interface LoadAdapterOptions extends LongTask {
  /** Checks identity, names and shapes against this base. */
  readonly base?: Checkpoint | undefined;
  /** Also checks sha256 and finiteness of every tensor (reads them all). Default true. */
  readonly verify?: boolean | undefined;
}

export function loadArgument(options: LoadAdapterOptions, key: string): void {
  const { base } = optionsArgument(options, key);
  if (base !== undefined) checkpointArgument(base, `${key}.base`);
}

export class Adapter {
  readonly method: AdapterInit["method"];
  readonly base: AdapterInit["base"];
  readonly experts: ExpertSet | null;
  readonly profile: AdapterInit["profile"];
  readonly training: AdapterInit["training"];
  readonly frozenDigest: string | undefined;
  readonly createdBy: string;
  /** What replaces slices of the base: by slice key, sorted. */
  readonly tensors: ReadonlyMap<string, AdapterTensor>;
  /** What a method attached beside the base's weights: by name, sorted. */
  readonly attached: ReadonlyMap<string, AttachedTensor>;

  /** @throws LayoutError a tensor twice, not of floats, or not what the expert set says; a method without the expert set that it needs */
  constructor(asked: AdapterInit) {
    const init = shapeArgument(
      optionsArgument(asked, "new Adapter: init"),
      ["method", "base"],
      "an object with method and base",
      "new Adapter: init",
    );
    this.method = init.method;
    this.base = init.base;
    this.experts = init.experts;
    this.profile = init.profile;
    this.training = init.training;
    this.frozenDigest = init.frozenDigest;
    this.createdBy = init.createdBy ?? `esft ${packageVersion()}`;
    this.tensors = sortedByKey(init.tensors ?? [], sliceKey);
    this.attached = sortedByKey(init.attached ?? [], (t) => t.name);
    const both = [...this.attached.keys()].find((key) => this.tensors.has(key));
    if (both !== undefined) throw adapterFault("expected each tensor once, found it replaced and attached", both);
    if (this.tensors.size + this.attached.size === 0) throw adapterFault("expected trained tensors, found none");
    if (!this.experts && NEED_EXPERTS.has(this.method.type))
      throw adapterFault(`expected the experts that method "${this.method.type}" trained, found none ("experts": null)`);
    if (this.experts) {
      const attaches = this.attached.size > 0 && !NEED_EXPERTS.has(this.method.type);
      // Terms beside routers replace matrices when they are folded, and none before.
      const mode = this.method["router"];
      const routers = mode === "train" || mode === "ste" || (mode === "lora" && this.attached.size === 0);
      checkExperts(this.tensors.values(), this.experts, { attaches, routers });
    }
  }

  /** The same adapter with other tensors or other facts. */
  with(changes: Partial<AdapterInit>): Adapter {
    const own = { ...this, tensors: this.tensors.values(), attached: this.attached.values() };
    return new Adapter({ ...own, ...optionsArgument(changes, "adapter.with: changes") });
  }

  #sum(of: (t: AdapterTensor | AttachedTensor) => number): number {
    return [...this.tensors.values(), ...this.attached.values()].reduce((n, t) => n + of(t), 0);
  }

  /** Bytes of all tensors. */
  get bytes(): number {
    return this.#sum((t) => tensorBytes(t.dtype, t.shape)!);
  }

  /** Trained parameters. */
  get parameters(): number {
    return this.#sum((t) => t.shape.reduce((a, b) => a * b, 1));
  }

  /** The bytes of one tensor, refused when any is NaN or infinite. */
  async read(key: string): Promise<Uint8Array> {
    textArgument(key, "adapter.read: key");
    const t = this.tensors.get(key) ?? this.attached.get(key);
    if (!t) throw adapterFault(`expected this tensor, found ${this.tensors.size + this.attached.size} others`, key);
    return readFinite(key, t);
  }

  /**
   * For what can only replace weights. @param task "merge", "save … in the official layout"
   * @throws LayoutError the adapter holds attached tensors
   */
  refuseAttached(task: string): void {
    const [first] = this.attached.keys();
    if (first !== undefined)
      throw new LayoutError(
        `cannot ${task} this adapter of method "${this.method.type}": this version can only do that with tensors that replace weights ` +
          `of the base, found ${this.attached.size} that are attached beside them ("${first}" first)`,
        { where: { tensor: first, method: this.method.type } },
      );
  }

  /**
   * Checks that this adapter fits a base: same identity, every replaced slice there with the same shape, every attached tensor's target
   * there.
   * @throws LayoutError "adapter for another base" with both identities, or the first tensor that does not fit
   */
  async checkBase(base: Checkpoint, options: LongTask = {}): Promise<void> {
    checkpointArgument(base, "checkBase: base");
    optionsArgument(options, "checkBase: options");
    const { identity } = this.base;
    if (identity) {
      const found = (await hashCheckpoint(base, options)).identity;
      if (!sameBase(identity, found))
        throw new LayoutError(
          `${base.dir}: this is an adapter for another base${this.base.name ? ` (${this.base.name})` : ""}: expected ${shownIdentity(identity)}, found ${shownIdentity(found)}`,
          { where: { file: base.dir, expected: identity.fingerprint, found: found.fingerprint } },
        );
    }
    for (const list of placeSlices(this.tensors.values(), base.weights).values())
      for (const { slice, shape } of list)
        if (slice.shape.join() !== shape.join())
          throw adapterFault(`expected shape ${shownShape(shape)} as in ${base.dir}, found ${shownShape(slice.shape)}`, sliceKey(slice));
    for (const { name, target } of this.attached.values()) {
      if (!target) continue;
      const tensor = base.weights.get(target.name);
      if (!tensor)
        throw adapterFault(
          `it is attached to "${target.name}": expected that tensor in ${base.dir}, found no such tensor; is the adapter for another base?`,
          name,
        );
      placeSlice(target, tensor);
    }
  }

  /** Writes the adapter directory: all files or none; other files in `dir` stay. @throws NonFiniteError, IoError */
  async save(dir: string, options: ShardOptions = {}): Promise<AdapterManifest> {
    pathArgument(dir, "adapter.save: dir");
    optionsArgument(options, "adapter.save: options");
    const { tensors, attached, createdBy, method, base, profile, training, frozenDigest } = this;
    const experts = this.experts?.toJSON() ?? null;
    const facts: AdapterFacts = { createdBy, method, base, experts, profile, training, frozenDigest };
    return writeFolder(dir, { facts, tensors, attached, card: modelCard(this) }, options);
  }

  /**
   * Loads and checks an adapter directory. Tensors stay on disk until read.
   * @throws LayoutError wrong base, unknown or missing tensors, damaged data · NonFiniteError · IoError
   */
  static async load(dir: string, options: LoadAdapterOptions = {}): Promise<Adapter> {
    pathArgument(dir, "Adapter.load: dir");
    loadArgument(options, "Adapter.load: options");
    const { manifest, path, tensors, attached, verify } = await readFolder(dir);
    const experts = manifest.experts ? ExpertSet.fromJSON(manifest.experts, `${path}: experts`) : null;
    const adapter = new Adapter({ ...manifest, experts, tensors, attached });
    if (options.base) await adapter.checkBase(options.base, options);
    if (options.verify ?? true) await verify(options);
    return adapter;
  }
}

function packageVersion(): string {
  // lib/adapter and dist/adapter lie equally deep below package.json.
  return (JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as { version: string }).version;
}
