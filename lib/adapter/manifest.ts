// adapter.json: what an adapter is and what is needed to trust it. Which base, which method and experts, how trained, the digest of
// everything that stayed frozen; of every tensor its place in the model, where its bytes lie and their sha256.
import { z } from "zod";
import type { ExpertSetJson } from "../experts/expert_set.ts";
import { checkSchema } from "../files/json.ts";
import type { WrittenTensor } from "../files/shards.ts";
import type { ParameterPlace, ParameterRole } from "../model/spec.ts";
import type { AdapterTensor, AttachedTensor } from "./tensors.ts";
import { FLOATS, PARTS } from "./tensors.ts";

export const MANIFEST = "adapter.json";

const Size = z.int().min(0);
const Hex = z.string().regex(/^[0-9a-f]{64}$/, "expected a sha256 in hex");
const Json = z.record(z.string(), z.json());

const Slice = z.strictObject({
  name: z.string(),
  index: Size.exactOptional(),
  rows: z.tuple([Size, Size]).readonly().exactOptional(),
});
const Stored = z.strictObject({ dtype: z.enum(FLOATS), shape: z.array(Size).readonly(), file: z.string(), sha256: Hex });
/** Every role, or this does not compile. */
const ROLES = {
  embedding: 1,
  attention: 1,
  norm: 1,
  router: 1,
  selectionBias: 1,
  expert: 1,
  shared: 1,
  dense: 1,
  head: 1,
  constant: 1,
} satisfies {
  readonly [R in ParameterRole]: 1;
};
const Role = z.enum(Object.keys(ROLES) as ParameterRole[]);

/** A ParameterPlace, key by key. */
const Place = z.strictObject({
  role: Role,
  layer: z.int().min(-1),
  expert: Size.exactOptional(),
  part: z.enum(PARTS).exactOptional(),
} satisfies { readonly [K in keyof Required<ParameterPlace>]: z.ZodType });

const Manifest = z.strictObject({
  format: z.literal("esft-adapter"),
  createdBy: z.string(),
  /** type "esft", "full", "lora" …, with that method's options: methods/ knows what they mean. */
  method: z.object({ type: z.string() }).catchall(z.json()),
  base: z.strictObject({
    name: z.string().optional(),
    /** The commit that it was at on the Hugging Face Hub. */
    revision: z
      .string()
      .regex(/^[0-9a-f]{40}$/, "expected a commit, 40 hex digits")
      .optional(),
    identity: z.strictObject({ fingerprint: Hex, contents: Hex.optional(), tensors: Size, bytes: Size }).nullable(),
  }),
  /** ExpertSet in its own format; null when the method has none. */
  experts: Json.nullable(),
  profile: Json.optional(),
  training: Json.optional(),
  frozenDigest: Hex.optional(),
  version: z.literal(2),
  /** Replace slices of the base. */
  tensors: z.array(Slice.extend(Place.shape).extend(Stored.shape)),
  /** Stand beside the base's weights. */
  attached: z.array(z.strictObject({ name: z.string(), layer: Size, target: Slice.exactOptional() }).extend(Stored.shape)).optional(),
});

export type AdapterManifest = z.output<typeof Manifest>;
/** Everything that the manifest says about the adapter as a whole. */
export interface AdapterFacts extends Omit<AdapterManifest, "format" | "version" | "tensors" | "attached" | "experts"> {
  readonly experts: ExpertSetJson | null;
}
export type StoredTensor = z.output<typeof Stored>;

/** Checks a parsed adapter.json. @throws LayoutError */
export const parseManifest = (value: unknown, path: string): AdapterManifest => checkSchema(Manifest, value, path);

/** A manifest to write, checked. @throws LayoutError */
export function newManifest(
  facts: AdapterFacts,
  tensors: readonly (AdapterTensor & WrittenTensor)[],
  attached: readonly (AttachedTensor & WrittenTensor)[],
): AdapterManifest {
  const manifest = { ...facts, format: "esft-adapter", version: 2, tensors, ...(attached.length > 0 ? { attached } : {}) };
  return parseManifest(JSON.parse(JSON.stringify(manifest)), MANIFEST); // without functions and undefined
}
