// The tensors of an adapter, and the rules that they obey. There are two kinds:
//
//   AdapterTensor    the trained values of a slice of the base, which they replace, with its place in the model
//   AttachedTensor   what a method put beside the base's weights (the A and B of a LoRA), under a name of the method's own
import { LayoutError, NonFiniteError } from "../errors.ts";
import type { ExpertSet } from "../experts/expert_set.ts";
import { shownType } from "../files/fault.ts";
import { castFloats, firstNonFinite } from "../files/floats.ts";
import type { Dtype } from "../files/safetensors.ts";
import { tensorBytes } from "../files/safetensors.ts";
import type { TensorSlice } from "../files/slice.ts";
import { sliceKey } from "../files/slice.ts";
import type { ExpertPart, FileLayout, ModelSpec, ParameterPlace } from "../model/spec.ts";
import { EXPERT_PARTS, fileShape, parameterShapes } from "../model/spec.ts";

export const adapterFault = (fault: string, tensor?: string): LayoutError =>
  new LayoutError(`adapter: ${tensor === undefined ? "" : `tensor "${tensor}": `}${fault}`, { where: { tensor } });

/** What an adapter may be stored in. */
export const FLOATS = ["F32", "BF16", "F16", "F64"] as const;
/** Methods whose adapters are only understood together with their expert set. */
export const NEED_EXPERTS: ReadonlySet<string> = new Set(["esft"]);
/** The matrices and biases of a routed expert. */
export const PARTS = EXPERT_PARTS;
/** Which of them make a whole expert, told by the first. */
const WHOLE: readonly (readonly ExpertPart[])[] = [
  ["gateUpBias", "gateUp", "down", "downBias"],
  ["downBias", "gateUp", "down", "gateUpBias"],
  ["gateUp", "down"],
  ["gate", "up", "down"],
];

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
  p: ParameterPlace & { readonly ref: TensorSlice; readonly shape: readonly number[]; readonly layout?: FileLayout },
  content: Pick<AdapterTensor, "dtype" | "read"> & { readonly shape?: readonly number[] },
): AdapterTensor {
  const { ref, role, layer, expert, part } = p;
  const routed = { ...(expert === undefined ? {} : { expert }), ...(part === undefined ? {} : { part }) };
  return { ...ref, role, layer, ...routed, shape: fileShape(p), ...content };
}

const placeInWords = ({ role, layer, expert, part }: ParameterPlace): string =>
  [`role ${role}`, `layer ${layer}`, ...(expert === undefined ? [] : [`expert ${expert}`]), ...(part === undefined ? [] : [part])].join(
    ", ",
  );

/** What the tensors say that they are is what the model knows them as. @throws LayoutError naming the first that is something else */
export function requirePlaces(spec: ModelSpec, tensors: ReadonlyMap<string, ParameterPlace>): void {
  const places = new Map(parameterShapes(spec).map((p) => [sliceKey(p.ref), p]));
  for (const [key, t] of tensors) {
    const place = places.get(key);
    const [expected, found] = [place ? placeInWords(place) : `a parameter of this ${spec.modelType} model`, placeInWords(t)];
    if (found !== expected) throw adapterFault(`expected ${expected}, found ${found}`, key);
  }
}

/** Tensors by the key they are stored under, sorted. @throws LayoutError one twice, or not of floats */
export function sortedByKey<T extends Content>(tensors: Iterable<T>, keyOf: (t: T) => string): Map<string, T> {
  const byKey = new Map<string, T>();
  for (const t of [...tensors].sort((a, b) => (keyOf(a) < keyOf(b) ? -1 : 1))) {
    const key = keyOf(t);
    if (byKey.has(key)) throw adapterFault("expected each tensor once, found it twice", key);
    if (!(FLOATS as readonly string[]).includes(t.dtype)) throw adapterFault(`expected ${FLOATS.join(", ")}, found ${t.dtype}`, key);
    byKey.set(key, t);
  }
  return byKey;
}

/** A tensor's bytes. @throws LayoutError more or fewer than it must have · NonFiniteError one of its values is NaN or infinite */
export async function readFinite(key: string, t: Content): Promise<Uint8Array> {
  const bytes = await t.read();
  const expected = tensorBytes(t.dtype, t.shape);
  if (bytes.byteLength !== expected) throw adapterFault(`expected ${expected} bytes for ${shownType(t)}, found ${bytes.byteLength}`, key);
  refuseNonFinite(key, bytes, t.dtype, "expected finite weights, found NaN or infinity");
  return bytes;
}

function refuseNonFinite(tensor: string, bytes: Uint8Array, dtype: Dtype, fault: string): void {
  const element = firstNonFinite(bytes, dtype);
  if (element !== -1)
    throw new NonFiniteError(`adapter: tensor "${tensor}": ${fault} at element ${element}`, { where: { tensor, element } });
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
  refuseNonFinite(key, cast, into.dtype, `expected values that fit the base's dtype ${into.dtype}, found an overflow`);
  return cast;
}

/**
 * Trained tensors of routed experts belong to selected experts, and a selected expert is there as a whole; the rest is what the set's
 * switches and the method's mode of the routers allow. A method that only attaches tensors to the experts replaces none of them.
 * @throws LayoutError the first tensor that should not be there, or is missing
 */
export function checkExperts(
  tensors: Iterable<AdapterTensor>,
  experts: ExpertSet,
  { attaches, routers }: { readonly attaches: boolean; readonly routers: boolean },
): void {
  const have = new Set<string>();
  for (const t of tensors) {
    const { role, layer, expert, part } = t;
    if (role === "expert") {
      if (expert === undefined || !experts.has(layer, expert))
        throw adapterFault(
          `expected tensors of the selected experts only, found one of layer ${layer}, expert ${expert ?? "unknown"}`,
          sliceKey(t),
        );
      have.add(`${layer}/${expert}/${part}`);
    } else if (
      !(role === "shared"
        ? experts.sharedExperts
        : experts.nonExpertModules || (routers && (role === "router" || role === "selectionBias")))
    ) {
      const kind = role === "shared" ? "shared experts" : "non-expert modules";
      throw adapterFault(`expected no tensors of ${kind} since the expert set does not train them`, sliceKey(t));
    }
  }
  if (have.size === 0 && attaches) return;
  for (const [layer, { ids }] of experts.layers)
    for (const expert of ids) {
      const has = (part: ExpertPart): boolean => have.has(`${layer}/${expert}/${part}`);
      const whole = WHOLE.find(([first]) => has(first!)) ?? WHOLE.at(-1)!;
      const missing = whole.find((part) => !has(part));
      if (missing !== undefined)
        throw adapterFault(`layer ${layer}, expert ${expert}: expected ${whole.join(", ")} of every selected expert, found no ${missing}`);
    }
}
