// An adapter: the full trained tensors (or slices of fused ones) under the base model's own names, and what is needed to
// trust them: which base, which experts, how trained, sha256 of every tensor, digest of everything that stayed frozen.
//
//   adapter.safetensors                     or adapter-00001-of-0000N.safetensors + adapter.safetensors.index.json
//   adapter.json                            the manifest (schema below)
//   README.md                               model card
import { readFileSync } from "node:fs";
import { stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { z } from "zod";
import { LayoutError, NonFiniteError } from "../errors.ts";
import type { LongTask } from "../task.ts";
import { finishGroup, writeFileAtomic, writeGroupAtomic } from "../files/atomic.ts";
import { throwIfAborted } from "../task.ts";
import { firstNonFinite } from "../files/floats.ts";
import type { Checkpoint } from "../files/checkpoint.ts";
import type { BaseIdentity } from "../files/hash.ts";
import { hashCheckpoint, sameBase, sha256, shownIdentity } from "../files/hash.ts";
import { checkSchema, formatJson, readJsonFile } from "../files/json.ts";
import type { Dtype, SafetensorsFile } from "../files/safetensors.ts";
import { openSafetensors, tensorBytes } from "../files/safetensors.ts";
import type { TensorEntry } from "../files/safetensors_writer.ts";
import { writeSafetensors } from "../files/safetensors_writer.ts";
import type { TensorSlice } from "../files/slice.ts";
import { placeSlices, sliceKey } from "../files/slice.ts";
import { modelCard } from "./card.ts";
import { ExpertSet } from "../experts/expert_set.ts";
import { partOf, roleOf } from "./tensor_role.ts";

const FLOATS = ["F32", "BF16", "F16", "F64"] as const;
const Size = z.int().min(0);
const Hex = z.string().regex(/^[0-9a-f]{64}$/, "expected a sha256 in hex");
const Json = z.record(z.string(), z.json());

const Manifest = z.strictObject({
  format: z.literal("esft-adapter"),
  version: z.literal(1),
  createdBy: z.string(),
  /** type "esft", "full" …, with that method's options. */
  method: z.looseObject({ type: z.string() }),
  base: z.strictObject({
    name: z.string().optional(),
    identity: z.strictObject({ fingerprint: Hex, contents: Hex.optional(), tensors: Size, bytes: Size }).nullable(),
  }),
  /** ExpertSet in its own format; null when the method has none. */
  experts: Json.nullable(),
  profile: Json.optional(),
  training: Json.optional(),
  frozenDigest: Hex.optional(),
  tensors: z.array(
    z.strictObject({
      name: z.string(),
      index: Size.optional(),
      rows: z.tuple([Size, Size]).optional(),
      dtype: z.enum(FLOATS),
      shape: z.array(Size),
      file: z.string(),
      sha256: Hex,
    }),
  ),
});

export type AdapterManifest = z.output<typeof Manifest>;
export type JsonRecord = z.output<typeof Json>;

export interface AdapterTensor extends TensorSlice {
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  /** The bytes; called when needed, possibly more than once. */
  readonly read: () => Promise<Uint8Array>;
}

export interface AdapterInit {
  readonly method: { readonly type: string; readonly [option: string]: unknown };
  readonly base: { readonly name?: string | undefined; readonly identity: BaseIdentity | null };
  readonly experts: ExpertSet | null;
  readonly tensors: Iterable<AdapterTensor>;
  readonly profile?: JsonRecord | undefined;
  readonly training?: JsonRecord | undefined;
  readonly frozenDigest?: string | undefined;
  readonly createdBy?: string | undefined;
}

export interface SaveAdapterOptions extends LongTask {
  /** Largest shard; default 4 GB. */
  readonly maxShardBytes?: number;
}

export interface LoadAdapterOptions extends LongTask {
  /** Checks identity, names and shapes against this base. */
  readonly base?: Checkpoint | undefined;
  /** Also checks sha256 and finiteness of every tensor (reads them all). Default true. */
  readonly verify?: boolean | undefined;
}

const GROUP = "adapter";
const MANIFEST = "adapter.json";
const INDEX = "adapter.safetensors.index.json";
const isOwnFile = (name: string) => /^adapter(-\d{5}-of-\d{5})?\.safetensors$/.test(name) || name === INDEX;

export class Adapter {
  readonly method: AdapterInit["method"];
  readonly base: AdapterInit["base"];
  readonly experts: ExpertSet | null;
  readonly profile: JsonRecord | undefined;
  readonly training: JsonRecord | undefined;
  readonly frozenDigest: string | undefined;
  readonly createdBy: string;
  /** By slice key, sorted. */
  readonly tensors: ReadonlyMap<string, AdapterTensor>;

  /** @throws LayoutError a tensor twice, not of floats, or not among the selected experts */
  constructor(init: AdapterInit) {
    this.method = init.method;
    this.base = init.base;
    this.experts = init.experts;
    this.profile = init.profile;
    this.training = init.training;
    this.frozenDigest = init.frozenDigest;
    this.createdBy = init.createdBy ?? `esft ${packageVersion()}`;
    const keyed = [...init.tensors].map((t) => [sliceKey(t), t] as const).sort(([a], [b]) => (a < b ? -1 : 1));
    this.tensors = new Map(keyed);
    for (const [i, [key, t]] of keyed.entries()) {
      if (keyed[i - 1]?.[0] === key)
        throw new LayoutError(`adapter: expected each tensor once, found "${key}" twice`, { where: { tensor: key } });
      if (!(FLOATS as readonly string[]).includes(t.dtype))
        throw new LayoutError(`adapter: tensor "${key}": expected ${FLOATS.join(", ")}, found ${t.dtype}`, { where: { tensor: key } });
    }
    if (keyed.length === 0) throw new LayoutError("adapter: expected trained tensors, found none");
    if (this.experts) checkExperts(this.tensors.values(), this.experts, []);
  }

  /** Bytes of all tensors. */
  get bytes(): number {
    let n = 0;
    for (const t of this.tensors.values()) n += tensorBytes(t.dtype, t.shape)!;
    return n;
  }

  /** Trained parameters. */
  get parameters(): number {
    let n = 0;
    for (const t of this.tensors.values()) n += t.shape.reduce((a, b) => a * b, 1);
    return n;
  }

  /** The bytes of one tensor, refused when any is NaN or infinite. */
  async read(key: string): Promise<Uint8Array> {
    const t = this.tensors.get(key);
    if (!t) throw new LayoutError(`adapter: expected tensor "${key}", found ${this.tensors.size} others`, { where: { tensor: key } });
    const bytes = await t.read();
    const expected = tensorBytes(t.dtype, t.shape);
    if (bytes.byteLength !== expected)
      throw new LayoutError(
        `adapter: tensor "${key}": expected ${expected} bytes for ${t.dtype} [${t.shape.join(", ")}], found ${bytes.byteLength}`,
        { where: { tensor: key } },
      );
    const bad = firstNonFinite(bytes, t.dtype);
    if (bad !== -1)
      throw new NonFiniteError(`adapter: tensor "${key}": expected finite weights, found NaN or infinity at element ${bad}`, {
        where: { tensor: key, element: bad },
      });
    return bytes;
  }

  /**
   * Checks that this adapter fits a base: same identity, every tensor there with the same shape, no expert half trained.
   * @throws LayoutError "adapter for another base" with both identities, or the first tensor that does not fit
   */
  async checkBase(base: Checkpoint, options: LongTask = {}): Promise<void> {
    const { identity } = this.base;
    if (identity) {
      const found = (await hashCheckpoint(base, options)).identity;
      if (!sameBase(identity, found))
        throw new LayoutError(
          `${base.dir}: this is an adapter for another base${this.base.name ? ` (${this.base.name})` : ""}: expected ${shownIdentity(identity)}, found ${shownIdentity(found)}`,
          {
            where: { file: base.dir, expected: identity.fingerprint, found: found.fingerprint },
          },
        );
    }
    for (const list of placeSlices(this.tensors.values(), base.tensors).values())
      for (const { slice, shape } of list)
        if (slice.shape.join() !== shape.join())
          throw new LayoutError(
            `adapter: tensor "${sliceKey(slice)}": expected shape [${shape.join(", ")}] as in ${base.dir}, found [${slice.shape.join(", ")}]`,
            { where: { tensor: sliceKey(slice) } },
          );
    if (this.experts) checkExperts(this.tensors.values(), this.experts, base.tensors.keys());
  }

  /** Writes the adapter directory: all files or none; other files in `dir` stay. @throws NonFiniteError, IoError */
  async save(dir: string, options: SaveAdapterOptions = {}): Promise<AdapterManifest> {
    const shards = planShards([...this.tensors], options.maxShardBytes ?? 4_000_000_000);
    // A README.md that is not an adapter's card belongs to the user.
    const writesCard = (await isAdapterDir(dir)) || !(await isFile(join(dir, "README.md")));
    const fill = async (temp: string): Promise<AdapterManifest> => {
      const tensors: AdapterManifest["tensors"] = [];
      let before = 0;
      for (const [i, shard] of shards.entries()) {
        const file = shards.length === 1 ? "adapter.safetensors" : `adapter-${pad5(i + 1)}-of-${pad5(shards.length)}.safetensors`;
        const entries: TensorEntry[] = shard.map(([key, t]) => ({ name: key, dtype: t.dtype, shape: t.shape, data: () => this.read(key) }));
        const progress =
          options.onProgress &&
          ((p: { done: number }) => options.onProgress?.({ phase: "save", done: before + p.done, total: this.bytes, unit: "bytes" }));
        const written = await writeSafetensors(join(temp, file), entries, {
          metadata: { format: "pt", esft: "adapter" },
          signal: options.signal,
          onProgress: progress,
        });
        before += written.bytes;
        for (const [key, t] of shard) {
          tensors.push({
            name: t.name,
            ...(t.index === undefined ? {} : { index: t.index }),
            ...(t.rows ? { rows: [t.rows[0], t.rows[1]] as [number, number] } : {}),
            dtype: t.dtype as (typeof FLOATS)[number],
            shape: [...t.shape],
            file,
            sha256: written.sha256.get(key)!,
          });
        }
      }
      const manifest = this.#manifest(tensors);
      if (shards.length > 1) {
        const weightMap = Object.fromEntries(tensors.map((t) => [sliceKey(t), t.file]));
        await writeFileAtomic(join(temp, INDEX), formatJson({ metadata: { total_size: this.bytes }, weight_map: weightMap }));
      }
      if (writesCard) await writeFileAtomic(join(temp, "README.md"), modelCard(this));
      await writeFileAtomic(join(temp, MANIFEST), formatJson(manifest));
      return manifest;
    };
    return writeGroupAtomic(dir, GROUP, fill, { bytes: this.bytes, owned: isOwnFile });
  }

  #manifest(tensors: AdapterManifest["tensors"]): AdapterManifest {
    const { name, identity } = this.base;
    const manifest = {
      format: "esft-adapter",
      version: 1,
      createdBy: this.createdBy,
      method: this.method,
      base: { ...(name === undefined ? {} : { name }), identity },
      experts: this.experts ? this.experts.toJSON() : null,
      ...(this.profile ? { profile: this.profile } : {}),
      ...(this.training ? { training: this.training } : {}),
      ...(this.frozenDigest ? { frozenDigest: this.frozenDigest } : {}),
      tensors,
    };
    return checkSchema(Manifest, JSON.parse(JSON.stringify(manifest)), MANIFEST);
  }

  /**
   * Loads and checks an adapter directory. Tensors stay on disk until read.
   * @throws LayoutError wrong base, unknown or missing tensors, damaged data · NonFiniteError · IoError
   */
  static async load(dir: string, options: LoadAdapterOptions = {}): Promise<Adapter> {
    await finishGroup(dir, GROUP);
    const path = join(dir, MANIFEST);
    const manifest = checkSchema(Manifest, await readJsonFile(path, LayoutError, { maxBytes: 100_000_000 }), path);
    const files = await openFiles(dir, manifest);
    const adapter = new Adapter({
      ...manifest,
      experts: manifest.experts ? ExpertSet.fromJSON(manifest.experts, `${path}: experts`) : null,
      tensors: manifest.tensors.map((t) => ({
        name: t.name,
        index: t.index,
        rows: t.rows,
        dtype: t.dtype,
        shape: t.shape,
        read: () => files.get(t.file)!.read(sliceKey(t)),
      })),
    });
    if (options.base) await adapter.checkBase(options.base, options);
    if (options.verify ?? true) await verifyTensors(dir, adapter, manifest, options);
    return adapter;
  }
}

/** Opens the data files and checks that they hold exactly what the manifest lists. */
async function openFiles(dir: string, manifest: AdapterManifest): Promise<Map<string, SafetensorsFile>> {
  const files = new Map<string, SafetensorsFile>();
  for (const t of manifest.tensors) {
    if (t.file !== basename(t.file) || !isOwnFile(t.file) || t.file === INDEX)
      throw new LayoutError(
        `${join(dir, MANIFEST)}: tensor "${sliceKey(t)}": expected the name of an adapter file in the same directory, found ${JSON.stringify(t.file)}`,
        { where: { file: dir, tensor: sliceKey(t) } },
      );
    if (!files.has(t.file)) files.set(t.file, await openSafetensors(join(dir, t.file)));
  }
  const listed = new Set(manifest.tensors.map((t) => `${t.file}\n${sliceKey(t)}`));
  for (const [name, file] of files)
    for (const key of file.tensors.keys())
      if (!listed.has(`${name}\n${key}`))
        throw new LayoutError(`${file.path}: expected only tensors that ${MANIFEST} lists, found "${key}"`, {
          where: { file: file.path, tensor: key },
        });
  for (const t of manifest.tensors) {
    const file = files.get(t.file)!;
    const found = file.tensors.get(sliceKey(t));
    const expected = `${t.dtype} [${t.shape.join(", ")}]`;
    if (!found)
      throw new LayoutError(`${file.path}: expected tensor "${sliceKey(t)}" ${expected}, found no such tensor`, {
        where: { file: file.path, tensor: sliceKey(t) },
      });
    if (`${found.dtype} [${found.shape.join(", ")}]` !== expected)
      throw new LayoutError(
        `${file.path}: tensor "${sliceKey(t)}": expected ${expected}, found ${found.dtype} [${found.shape.join(", ")}]`,
        { where: { file: file.path, tensor: sliceKey(t) } },
      );
  }
  return files;
}

async function verifyTensors(dir: string, adapter: Adapter, manifest: AdapterManifest, options: LongTask): Promise<void> {
  let done = 0;
  for (const t of manifest.tensors) {
    throwIfAborted(options.signal, `loading ${dir}`);
    const key = sliceKey(t);
    const bytes = await adapter.read(key);
    const found = sha256(bytes);
    if (found !== t.sha256)
      throw new LayoutError(
        `${join(dir, t.file)}: tensor "${key}": expected sha256 ${t.sha256}, found ${found}; the file was damaged or changed after saving`,
        { where: { file: join(dir, t.file), tensor: key } },
      );
    done += bytes.byteLength;
    options.onProgress?.({ phase: "verify adapter", done, total: adapter.bytes, unit: "bytes" });
  }
}

/** Every expert tensor belongs to a selected expert, every selected expert has all its parts, the rest is allowed by the switches. */
function checkExperts(tensors: Iterable<TensorSlice>, experts: ExpertSet, baseNames: Iterable<string>): void {
  const parts = new Map<number, Set<string>>(); // layer → parts an expert of it consists of
  const have = new Set<string>();
  const see = (layer: number, part: string) => parts.set(layer, (parts.get(layer) ?? new Set()).add(part));
  for (const t of tensors) {
    const role = roleOf(t);
    const key = sliceKey(t);
    if (role.kind === "expert") {
      if (!experts.has(role.layer, role.expert))
        throw new LayoutError(
          `adapter: expected tensors of the selected experts only, found "${key}" of layer ${role.layer}, expert ${role.expert}`,
          { where: { tensor: key, layer: role.layer, expert: role.expert } },
        );
      see(role.layer, partOf(t));
      have.add(`${role.layer}/${role.expert}/${partOf(t)}`);
    } else if (!(role.kind === "shared" ? experts.sharedExperts : experts.nonExpertModules)) {
      throw new LayoutError(
        `adapter: expected no tensors of ${role.kind === "shared" ? "shared experts" : "non-expert modules"} since the expert set does not train them, found "${key}"`,
        { where: { tensor: key } },
      );
    }
  }
  for (const name of baseNames) {
    const role = roleOf({ name });
    if (role.kind === "expert" && experts.has(role.layer, role.expert)) see(role.layer, partOf({ name }));
  }
  for (const [layer, { ids }] of experts.layers)
    for (const expert of ids) {
      const missing = [...(parts.get(layer) ?? ["any tensor"])].find((part) => !have.has(`${layer}/${expert}/${part}`));
      if (missing !== undefined)
        throw new LayoutError(`adapter: layer ${layer}, expert ${expert}: expected ${missing} of every selected expert, found none`, {
          where: { layer, expert, tensor: missing },
        });
    }
}

function planShards(tensors: [string, AdapterTensor][], maxBytes: number): [string, AdapterTensor][][] {
  const shards: [string, AdapterTensor][][] = [[]];
  let used = 0;
  for (const entry of tensors) {
    const bytes = tensorBytes(entry[1].dtype, entry[1].shape)!;
    if (used > 0 && used + bytes > maxBytes) {
      shards.push([]);
      used = 0;
    }
    shards.at(-1)!.push(entry);
    used += bytes;
  }
  return shards;
}

const pad5 = (n: number) => String(n).padStart(5, "0");

function packageVersion(): string {
  // lib/adapter and dist/adapter lie equally deep below package.json.
  return (JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as { version: string }).version;
}

/** True when `dir` holds an adapter in our layout (also one whose save was interrupted after its commit point). */
export async function isAdapterDir(dir: string): Promise<boolean> {
  for (const name of [MANIFEST, join(`.${GROUP}.next`, MANIFEST)]) if (await isFile(join(dir, name))) return true;
  return false;
}

async function isFile(path: string): Promise<boolean> {
  return stat(path).then(
    (s) => s.isFile(),
    () => false,
  );
}
