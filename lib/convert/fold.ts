// What an adapter attached, folded into the weights: W + s·B·A in place of W and its low-rank term. The result replaces slices of the
// base as any trained tensor does, so that merging and verifying need nothing of their own. Sums in f64, rounded to f32 once; the base's
// dtype rounds once more when it is merged.
//
// Exact where the term stands beside one matrix: LoRA. Adapters of PERFT stand beside a gated MLP or a whole block; no weights of those
// compute a linear map of their input beside what they compute already, so that there is nothing to fold into.

import { instanceArgument } from "../arguments.ts";
import { Adapter } from "../adapter/adapter.ts";
import { parameterTensor } from "../adapter/tensors.ts";
import type { AdapterTensor, AttachedTensor } from "../adapter/tensors.ts";
import { LayoutError } from "../errors.ts";
import type { Checkpoint } from "../files/checkpoint.ts";
import { checkpointArgument } from "../files/checkpoint.ts";
import { decodeFloats, encodeFloats } from "../files/floats.ts";
import { placeSlice, sliceKey } from "../files/slice.ts";
import { attachingMethod } from "../methods/attachments.ts";
import type { LoraMatrix } from "../methods/lora_targets.ts";
import { checkpointSpec, gateUpKey } from "../model/families/index.ts";
import type { ModelSpec, ParameterShape } from "../model/spec.ts";
import { fileShape, moeOf, parameterShapes } from "../model/spec.ts";
import { DequantisedCheckpoint } from "../quantised.ts";

const REASONS = {
  R: "its adapters have a router of their own, which chooses them token by token",
  E: "an adapter is a linear map beside a gated expert, and no gate, up and down compute both",
  D: "its adapters are a linear map beside the whole block, for which a checkpoint has no weights",
  S: "its adapter is a linear map beside the whole block, for which a checkpoint has no weights",
} as const;

/**
 * The adapter with nothing attached: the tensors that its terms stand beside are replaced. One that attaches nothing is returned as it is.
 * @throws LayoutError a method whose terms have no place in the weights, with the reason; tensors that are not its method's
 */
export function foldAdapter(base: Checkpoint, adapter: Adapter): Adapter {
  checkpointArgument(base, "foldAdapter: base");
  instanceArgument(adapter, Adapter, "foldAdapter: adapter");
  if (adapter.attached.size === 0) return adapter;
  const spec = checkpointSpec(base);
  const method = attachingMethod(spec, adapter.method, adapter.experts);
  if (method.type === "perft") {
    const { variant } = method.options;
    throw new LayoutError(
      `an adapter of method "perft", variant ${variant}, cannot be merged: ${REASONS[variant]}; load it beside the base (--adapter)`,
      { where: { method: "perft", key: "method.variant" } },
    );
  }
  const biases = (method.condensers?.layers ?? []).map(({ layer, key }) => foldedBias(base, spec, adapter, layer, key));
  const tensors = [...foldedTensors(base, spec, adapter, method.matrices), ...biases];
  // Of ESFT the selected experts are there as they were.
  const experts = adapter.method.type === "esft" ? adapter.experts : null;
  return adapter.with({ tensors: [...adapter.tensors.values(), ...tensors], attached: [], experts, frozenDigest: undefined });
}

/** A parameter, the term beside it, and which rows of the term's B are its own. */
interface Fold {
  readonly parameter: ParameterShape;
  readonly matrix: LoraMatrix;
  readonly firstRow: number;
}

function foldedTensors(base: Checkpoint, spec: ModelSpec, adapter: Adapter, matrices: readonly LoraMatrix[]): AdapterTensor[] {
  const parameters = new Map(parameterShapes(spec).map((p) => [sliceKey(p.ref), p]));
  return matrices.flatMap((matrix) => foldsOf(spec, parameters, matrix)).map((fold) => folded(base, adapter, fold));
}

function foldsOf(spec: ModelSpec, parameters: ReadonlyMap<string, ParameterShape>, matrix: LoraMatrix): Fold[] {
  const own = parameters.get(matrix.key);
  if (own) return [{ parameter: own, matrix, firstRow: 0 }];
  const { layer, expert } = matrix.place;
  const weights = expert === undefined ? undefined : moeOf(spec, layer)?.experts[expert];
  if (!weights || "gateUp" in weights || gateUpKey(weights) !== matrix.key) throw missing(matrix.key);
  const half = matrix.shape[0] / 2;
  return [weights.gate, weights.up].map((ref, i) => {
    const parameter = parameters.get(sliceKey(ref));
    if (!parameter) throw missing(sliceKey(ref));
    return { parameter, matrix, firstRow: i * half };
  });
}

/** The family's selection bias with the condensers' added. @throws LayoutError the family has none */
function foldedBias(base: Checkpoint, spec: ModelSpec, adapter: Adapter, layer: number, key: string): AdapterTensor {
  const ref = moeOf(spec, layer)?.selectionBias;
  const parameter = ref && parameterShapes(spec).find((p) => sliceKey(p.ref) === sliceKey(ref));
  if (!parameter)
    throw new LayoutError(
      `an adapter with condensers cannot be merged into a ${spec.modelType} model: its checkpoint has no place for a bias on the choice of ` +
        "experts; load it beside the base (--adapter)",
      { where: { tensor: key, key: "method.condensers" } },
    );
  const read = async (): Promise<Uint8Array> => {
    using source = new DequantisedCheckpoint(base);
    const info = source.tensors.get(parameter.ref.name);
    if (!info) throw missing(parameter.ref.name);
    const { begin, end } = placeSlice(parameter.ref, info, fileShape(parameter));
    const bias = decodeFloats(await source.range(parameter.ref.name, begin, end), info.dtype).slice();
    const delta = decodeFloats(await adapter.read(key), adapter.attached.get(key)!.dtype);
    bias.forEach((b, e) => (bias[e] = b + delta[e]!));
    return encodeFloats(bias, "F32");
  };
  return parameterTensor(parameter, { dtype: "F32", read });
}

const missing = (tensor: string): LayoutError =>
  new LayoutError(`adapter: "${tensor}" has a term, but is no parameter of the base`, { where: { tensor } });

/** The parameter with its term inside; computed when it is read. */
function folded(base: Checkpoint, adapter: Adapter, { parameter, matrix, firstRow }: Fold): AdapterTensor {
  const { ref, shape } = parameter;
  const [rows, columns] = shape as [number, number];
  const read = async (): Promise<Uint8Array> => {
    using source = new DequantisedCheckpoint(base);
    const info = source.tensors.get(ref.name);
    if (!info) throw missing(ref.name);
    const { begin, end } = placeSlice(ref, info, fileShape(parameter));
    const w = decodeFloats(await source.range(ref.name, begin, end), info.dtype).slice(); // F32 may be a view of what is mapped
    const values = async (name: string, [r, c]: readonly [number, number]): Promise<Float32Array> => {
      const t = adapter.attached.get(name);
      if (t?.shape.join() !== [r, c].join())
        throw new LayoutError(`adapter: expected "${name}" [${r}, ${c}], found ${t ? `[${t.shape.join(", ")}]` : "no such tensor"}`, {
          where: { tensor: name },
        });
      return decodeFloats(await adapter.read(name), (t as AttachedTensor).dtype);
    };
    const { rank, scaling, key } = matrix;
    const a = await values(`lora.${key}.A`, [rank, columns]);
    const b = await values(`lora.${key}.B`, [matrix.shape[0], rank]);
    addProduct(w, a, b.subarray(firstRow * rank, (firstRow + rows) * rank), { rows, columns, rank, scaling, place: placeIn(parameter) });
    return encodeFloats(w, "F32");
  };
  return parameterTensor(parameter, { dtype: "F32", read });
}

/** Where element (row, column) of a parameter lies in its file. */
function placeIn({ shape, layout }: ParameterShape): (row: number, column: number) => number {
  const [rows, columns] = shape as [number, number];
  if (!layout) return (row, column) => row * columns + column;
  if (layout === "transposed") return (row, column) => column * rows + row;
  const half = rows / 2; // gate, up, gate, up …
  return (row, column) => column * rows + (row < half ? 2 * row : 2 * (row - half) + 1);
}

interface Product {
  readonly rows: number;
  readonly columns: number;
  readonly rank: number;
  readonly scaling: number;
  readonly place: (row: number, column: number) => number;
}

/** W += s·B·A. W [rows, columns] where `place` says, A [rank, columns], B [rows, rank]. */
function addProduct(w: Float32Array, a: Float32Array, b: Float32Array, { rows, columns, rank, scaling, place }: Product): void {
  const sum = new Float64Array(columns);
  for (let row = 0; row < rows; row++) {
    sum.fill(0);
    for (let k = 0; k < rank; k++) {
      const factor = b[row * rank + k]!;
      const from = k * columns;
      for (let c = 0; c < columns; c++) sum[c]! += factor * a[from + c]!;
    }
    for (let c = 0; c < columns; c++) w[place(row, c)]! += scaling * sum[c]!;
  }
}
