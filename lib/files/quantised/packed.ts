// A weight as the model knows it, and the stored tensors that make it: itself, or what a quantiser made of it. The numbers and words of
// `Packed` are what csrc/quant/packed_weight.h is given: value = round((code − zero) · (scale / global) · factor).
import type { LayoutError } from "../../errors.ts";
import { layoutFault, shownShape, shownType } from "../fault.ts";
import type { Dtype, TensorInfo } from "../safetensors.ts";

export type Codes = "table4" | "e2m1" | "int4" | "int8words" | "int8" | "e4m3" | "f16";
export type ScaleKind = "none" | "f32" | "bf16" | "f16" | "e4m3" | "e8m0" | "power" | "ldexp" | "nested";
export type PartName = "codes" | "scales" | "table" | "nestedScales" | "nestedTable" | "zeros" | "order" | "global";

/** Bytes of a file. */
export interface PackedPart {
  readonly path: string;
  readonly begin: number;
  readonly end: number;
}

export interface Packed {
  /** In words: "nf4, block 64". */
  readonly scheme: string;
  readonly codes: Codes;
  readonly scale: ScaleKind;
  readonly zeros: "none" | "words" | "bytes";
  /** To what the format's own library rounds a value. */
  readonly rounding: "f32" | "bf16" | "f16";
  /** The smaller of the two that holds every value exactly. */
  readonly held: "F32" | "BF16";
  /** As stored: matrices of rows × cols; `transposed`: the weight's are cols × rows. */
  readonly matrices: number;
  readonly rows: number;
  readonly cols: number;
  readonly transposed: boolean;
  /** Elements that share a scale; of table4 `blockCols` of the flattened matrix. */
  readonly blockRows: number;
  readonly blockCols: number;
  /** Scales that share a scale of theirs. */
  readonly nestedBlock: number;
  readonly nestedOffset: number;
  readonly factor: number;
  readonly parts: Readonly<Partial<Record<PartName, PackedPart>>>;
  /** Bytes of all that belongs to it in the files. */
  readonly bytes: number;
}

/** A weight of a checkpoint, under the name and in the shape that the model gives it. */
export interface WeightInfo {
  readonly name: string;
  /** As stored, or as it would be in the dequantised checkpoint: BF16. */
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  readonly file: string;
  readonly path: string;
  /** Null: stored as it is, in `stored`. */
  readonly packed: Packed | null;
  /** The tensor itself, or the one with the codes. */
  readonly stored: TensorInfo;
}

/** What most formats leave out. */
export const plainParts = {
  zeros: "none",
  matrices: 1,
  transposed: false,
  blockRows: 1,
  nestedBlock: 1,
  nestedOffset: 0,
  factor: 1,
} as const;

export interface Found {
  readonly name: string;
  readonly shape: readonly number[];
  /** The stored tensor of each part. */
  readonly parts: Partial<Record<PartName, TensorInfo>>;
  /** Those that belong to it and say nothing of its values: scales of activations. */
  readonly beside?: readonly string[];
  /** Bytes of the codes that count, where the tensor pads them. */
  readonly codeBytes?: number;
  readonly layout: Omit<Packed, "parts" | "bytes">;
}

/** Takes the tensors of a checkpoint apart into weights; what no format claims is a weight by itself. */
export class WeightFinder {
  /** config.json, for messages. */
  readonly source: string;
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  private readonly claimed = new Map<string, string>();
  private readonly packed = new Map<string, WeightInfo>();

  constructor(source: string, tensors: ReadonlyMap<string, TensorInfo>) {
    this.source = source;
    this.tensors = tensors;
  }

  fault(t: TensorInfo, fault: string): LayoutError {
    return layoutFault(t.path, fault, t.name);
  }
  /** The tensor `name` that `of` needs. @throws LayoutError it is not there */
  need(name: string, of: TensorInfo): TensorInfo {
    const found = this.tensors.get(name);
    if (!found) throw this.fault(of, `expected "${name}" beside it, found no such tensor`);
    return found;
  }
  /** @throws LayoutError the tensor is of another dtype or shape */
  expect(t: TensorInfo, dtypes: readonly Dtype[], ...shapes: readonly (readonly number[])[]): void {
    if (dtypes.includes(t.dtype) && (shapes.length === 0 || shapes.some((shape) => shape.join() === t.shape.join()))) return;
    const shape = shapes.length === 0 ? "" : ` ${shapes.map(shownShape).join(" or ")}`;
    throw this.fault(t, `expected ${dtypes.join(", ")}${shape}, found ${shownType(t)}`);
  }

  /** A tensor that says nothing of any weight. */
  leaveOut(t: TensorInfo): void {
    this.claimed.set(t.name, "");
  }

  add({ name, shape, parts, beside = [], codeBytes, layout }: Found): void {
    const { codes } = parts;
    if (!codes) return;
    const all = Object.values(parts);
    const extra = beside.flatMap((other) => this.tensors.get(other) ?? []);
    for (const t of [...all, ...extra]) {
      const other = this.claimed.get(t.name);
      if (other !== undefined && !extra.includes(t))
        throw this.fault(t, `expected to belong to one weight, found "${other}" and "${name}"`);
      this.claimed.set(t.name, name);
    }
    const range = (t: TensorInfo): PackedPart => ({ path: t.path, begin: t.begin, end: t.end });
    const ranges = Object.fromEntries(Object.entries(parts).map(([part, t]) => [part, range(t)])) as Packed["parts"];
    const trimmed = codeBytes === undefined ? {} : { codes: { ...range(codes), end: codes.begin + codeBytes } };
    const bytes = [...all, ...extra].reduce((n, t) => n + t.end - t.begin, 0);
    const { file, path } = codes;
    this.packed.set(name, {
      name,
      dtype: "BF16",
      shape,
      file,
      path,
      stored: codes,
      packed: { ...layout, parts: { ...ranges, ...trimmed }, bytes },
    });
  }

  /** All weights, in the order of the tensors. @throws LayoutError two of one name */
  weights(): Map<string, WeightInfo> {
    const out = new Map<string, WeightInfo>();
    const byCodes = new Map([...this.packed.values()].map((w) => [w.stored.name, w]));
    for (const t of this.tensors.values()) {
      const weight = byCodes.get(t.name) ?? (this.claimed.has(t.name) ? null : plainWeight(t));
      if (!weight) continue;
      if (out.has(weight.name)) throw this.fault(t, `expected one weight "${weight.name}", found another one of that name`);
      out.set(weight.name, weight);
    }
    return out;
  }
}

export function plainWeight(t: TensorInfo): WeightInfo {
  const { name, dtype, shape, file, path } = t;
  return { name, dtype, shape, file, path, packed: null, stored: t };
}

const scaleKinds: Readonly<Partial<Record<Dtype, ScaleKind>>> = { F32: "f32", BF16: "bf16", F16: "f16", F8_E8M0: "e8m0", F8_E4M3: "e4m3" };
export const scaleKind = (dtype: Dtype): ScaleKind => scaleKinds[dtype] ?? "e8m0"; // U8: exponents

/** The matrices of a weight: all but the last two dimensions are matrices. */
export function matrixShape(shape: readonly number[]): { matrices: number; rows: number; cols: number } {
  const product = (sizes: readonly number[]): number => sizes.reduce((a, b) => a * b, 1);
  return { matrices: product(shape.slice(0, -2)), rows: shape.at(-2) ?? 1, cols: shape.at(-1) ?? 1 };
}
