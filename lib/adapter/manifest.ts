// adapter.json: what an adapter is and what is needed to trust it. Which base, which method and experts, how trained, the digest of
// everything that stayed frozen; of every tensor its place in the model, where its bytes lie and their sha256.
//
// Version 2 says what each tensor is to the model (role, layer, expert, part) and lists tensors that a method attached. Version 1 did
// neither; a base tells the places (places.ts).
import { z } from "zod";
import { LayoutError } from "../errors.ts";
import type { ExpertSetJson } from "../experts/expert_set.ts";
import type { Checkpoint } from "../files/checkpoint.ts";
import { checkSchema } from "../files/json.ts";
import type { WrittenTensor } from "../files/shards.ts";
import { sliceKey } from "../files/slice.ts";
import type { ParameterPlace, ParameterRole } from "../model/spec.ts";
import { noParameter, parametersOf } from "./places.ts";
import type { AdapterTensor, AttachedTensor } from "./tensors.ts";
import { FLOATS } from "./tensors.ts";

export const MANIFEST = "adapter.json";

const Size = z.int().min(0);
const Hex = z.string().regex(/^[0-9a-f]{64}$/, "expected a sha256 in hex");
const Json = z.record(z.string(), z.json());

const Slice = z.strictObject({ name: z.string(), index: Size.exactOptional(), rows: z.tuple([Size, Size]).exactOptional() });
const Stored = z.strictObject({ dtype: z.enum(FLOATS), shape: z.array(Size), file: z.string(), sha256: Hex });
const Unplaced = Slice.extend(Stored.shape);

const ROLES = {
  embedding: "embedding",
  attention: "attention",
  norm: "norm",
  router: "router",
  selectionBias: "selectionBias",
  expert: "expert",
  shared: "shared",
  dense: "dense",
  head: "head",
} as const satisfies { readonly [R in ParameterRole]: R };

/** A ParameterPlace, key by key. */
const Place = z.strictObject({
  role: z.enum(ROLES),
  layer: z.int().min(-1),
  expert: Size.exactOptional(),
  part: z.enum(["gate", "up", "down"]).exactOptional(),
} satisfies { readonly [K in keyof Required<ParameterPlace>]: z.ZodType });

const Common = z.strictObject({
  format: z.literal("esft-adapter"),
  createdBy: z.string(),
  /** type "esft", "full", "lora" …, with that method's options: methods/ knows what they mean. */
  method: z.object({ type: z.string() }).catchall(z.json()),
  base: z.strictObject({
    name: z.string().optional(),
    identity: z.strictObject({ fingerprint: Hex, contents: Hex.optional(), tensors: Size, bytes: Size }).nullable(),
  }),
  /** ExpertSet in its own format; null when the method has none. */
  experts: Json.nullable(),
  profile: Json.optional(),
  training: Json.optional(),
  frozenDigest: Hex.optional(),
});

const Version1 = Common.extend({ version: z.literal(1), tensors: z.array(Unplaced) });

const Version2 = Common.extend({
  version: z.literal(2),
  /** Replace slices of the base. */
  tensors: z.array(Slice.extend(Place.shape).extend(Stored.shape)),
  /** Stand beside the base's weights. */
  attached: z.array(z.strictObject({ name: z.string(), layer: Size, target: Slice.exactOptional() }).extend(Stored.shape)).optional(),
});

const AnyVersion = z.looseObject({ format: z.literal("esft-adapter"), version: z.literal([1, 2]) });

export type AdapterManifest = z.output<typeof Version2>;
/** Everything that the manifest says about the adapter as a whole. */
export interface AdapterFacts extends Omit<AdapterManifest, "format" | "version" | "tensors" | "attached" | "experts"> {
  readonly experts: ExpertSetJson | null;
}
export type StoredTensor = z.output<typeof Stored>;
export type JsonRecord = z.output<typeof Json>;

/**
 * Checks a parsed adapter.json; one of version 1 becomes the same in version 2, by its base.
 * @throws LayoutError not a manifest, or one of version 1 without its base · ConfigError a base of an unsupported architecture
 */
export function parseManifest(value: unknown, path: string, base: Checkpoint | undefined): AdapterManifest {
  const { version } = checkSchema(AnyVersion, value, path);
  if (version === 2) return checkSchema(Version2, value, path);
  const old = checkSchema(Version1, value, path);
  if (!base)
    throw new LayoutError(
      `${path}: an adapter of format version 1 does not say which layers and experts its tensors belong to: open it together with its ` +
        `base (--base DIR, or the option base)`,
      { where: { file: path } },
    );
  const parameters = parametersOf(base);
  const tensors = old.tensors.map((t) => {
    const p = parameters.get(sliceKey(t));
    if (!p) throw noParameter(sliceKey(t), base);
    const { ref: _r, shape: _s, ...place } = p;
    return { ...t, ...place };
  });
  return { ...old, version: 2, tensors };
}

/** A manifest to write, checked. @throws LayoutError */
export function newManifest(
  facts: AdapterFacts,
  tensors: readonly (AdapterTensor & WrittenTensor)[],
  attached: readonly (AttachedTensor & WrittenTensor)[],
): AdapterManifest {
  const manifest = { ...facts, format: "esft-adapter", version: 2, tensors, ...(attached.length > 0 ? { attached } : {}) };
  return checkSchema(Version2, JSON.parse(JSON.stringify(manifest)), MANIFEST); // without functions and undefined
}
