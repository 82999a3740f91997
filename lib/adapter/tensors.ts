// The tensors of an adapter, and the rules that they obey. There are two kinds:
//
//   AdapterTensor    the trained values of a slice of the base, which they replace, with its place in the model
//   AttachedTensor   what a method put beside the base's weights (the A and B of a LoRA), under a name of the method's own
import { LayoutError, NonFiniteError } from "../errors.ts";
import type { ExpertSet } from "../experts/expert_set.ts";
import { castFloats, firstNonFinite } from "../files/floats.ts";
import type { Dtype } from "../files/safetensors.ts";
import { tensorBytes } from "../files/safetensors.ts";
import type { TensorSlice } from "../files/slice.ts";
import { sliceKey } from "../files/slice.ts";
import type { ParameterPlace } from "../model/spec.ts";

/** What an adapter may be stored in. */
export const FLOATS = ["F32", "BF16", "F16", "F64"] as const;

interface Content {
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  /** The bytes; called when needed, possibly more than once. */
  readonly read: () => Promise<Uint8Array>;
}

export interface AdapterTensor extends TensorSlice, ParameterPlace, Content {}

export interface AttachedTensor extends Content {
  /** Key in the adapter; no name of a base tensor. */
  readonly name: string;
  /** Decoder layer, 0-based. */
  readonly layer: number;
  /** The base weight that it modifies, where there is one. */
  readonly target?: TensorSlice | undefined;
}

/** New values of a model's parameter: its slice and place come from there, and its shape unless another one was found. */
export function parameterTensor(
  p: ParameterPlace & { readonly ref: TensorSlice; readonly shape: readonly number[] },
  content: Pick<AdapterTensor, "dtype" | "read"> & { readonly shape?: readonly number[] },
): AdapterTensor {
  const { ref, role, layer, expert, part } = p;
  const routed = { ...(expert === undefined ? {} : { expert }), ...(part === undefined ? {} : { part }) };
  return { ...ref, role, layer, ...routed, shape: p.shape, ...content };
}

/** Tensors by the key they are stored under, sorted. @throws LayoutError one twice, or not of floats */
export function sortedByKey<T extends Content>(tensors: Iterable<T>, keyOf: (t: T) => string): Map<string, T> {
  const keyed = [...tensors].map((t) => [keyOf(t), t] as const).sort(([a], [b]) => (a < b ? -1 : 1));
  for (const [i, [key, t]] of keyed.entries()) {
    if (keyed[i - 1]?.[0] === key)
      throw new LayoutError(`adapter: expected each tensor once, found "${key}" twice`, { where: { tensor: key } });
    if (!(FLOATS as readonly string[]).includes(t.dtype))
      throw new LayoutError(`adapter: tensor "${key}": expected ${FLOATS.join(", ")}, found ${t.dtype}`, { where: { tensor: key } });
  }
  return new Map(keyed);
}

/** A tensor's bytes. @throws LayoutError more or fewer than it must have · NonFiniteError one of its values is NaN or infinite */
export async function readFinite(key: string, t: Content): Promise<Uint8Array> {
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
 * A tensor's bytes as a base stores them: cast to the base's dtype, nearest even.
 * @throws LayoutError the base is not of floats · NonFiniteError a value is not finite, or overflows the base's dtype
 */
export async function readInto(key: string, t: Content, into: { readonly dtype: Dtype; readonly path: string }): Promise<Uint8Array> {
  const bytes = await readFinite(key, t);
  let cast: Uint8Array;
  try {
    cast = castFloats(bytes, t.dtype, into.dtype);
  } catch (error) {
    throw new LayoutError(`${into.path}: tensor "${key}": cannot merge ${t.dtype} into ${into.dtype}; merge into a dequantised base`, {
      where: { file: into.path, tensor: key },
      cause: error,
    });
  }
  const bad = firstNonFinite(cast, into.dtype);
  if (bad !== -1)
    throw new NonFiniteError(`tensor "${key}": element ${bad} overflows the base's dtype ${into.dtype}`, {
      where: { tensor: key, element: bad },
    });
  return cast;
}

const PARTS = ["gate", "up", "down"] as const;

/**
 * Trained tensors of routed experts belong to selected experts, and a selected expert is there as a whole; the rest is what the set's
 * switches allow. A method that only attaches tensors to the experts replaces none of them.
 * @throws LayoutError the first tensor that should not be there, or is missing
 */
export function checkExperts(tensors: Iterable<AdapterTensor>, experts: ExpertSet, attaches: boolean): void {
  const have = new Set<string>();
  for (const t of tensors) {
    const key = sliceKey(t);
    const { role, layer, expert } = t;
    if (role === "expert") {
      if (expert === undefined || !experts.has(layer, expert))
        throw new LayoutError(
          `adapter: expected tensors of the selected experts only, found "${key}" of layer ${layer}, expert ${expert ?? "unknown"}`,
          { where: { tensor: key, layer, expert } },
        );
      have.add(`${layer}/${expert}/${t.part}`);
    } else if (!(role === "shared" ? experts.sharedExperts : experts.nonExpertModules)) {
      throw new LayoutError(
        `adapter: expected no tensors of ${role === "shared" ? "shared experts" : "non-expert modules"} since the expert set does not train them, found "${key}"`,
        { where: { tensor: key } },
      );
    }
  }
  if (have.size === 0 && attaches) return;
  for (const [layer, { ids }] of experts.layers)
    for (const expert of ids) {
      const missing = PARTS.find((part) => !have.has(`${layer}/${expert}/${part}`));
      if (missing !== undefined)
        throw new LayoutError(
          `adapter: layer ${layer}, expert ${expert}: expected ${PARTS.join(", ")} of every selected expert, found no ${missing}`,
          { where: { layer, expert, part: missing } },
        );
    }
}
