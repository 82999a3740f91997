// A part of a checkpoint's tensor that is a matrix or vector of its own: the whole of it, one expert of a fused tensor, or some rows
// of that. The model names its parameters so, an adapter what it trained.
//
//   { name }                      per-expert checkpoints: the tensor itself
//   { name, index }               fused [E, …]: entry `index` along the first dimension, shape […]
//   { name, index, rows: [a, b] } rows a … b−1 of that entry, e.g. the gate half of gate_up_proj [E, 2F, D]
//   { name, rows }                rows of an unfused tensor
//
// Each is one contiguous byte range, which is all that digest and merge need to know.
import { LayoutError } from "../errors.ts";
import type { Dtype } from "./safetensors.ts";
import { tensorBytes } from "./safetensors.ts";
import { shownShape, shownType } from "./fault.ts";

export interface TensorSlice {
  /** Name in the checkpoint. */
  readonly name: string;
  /** Index along the first dimension of a stacked tensor (experts). */
  readonly index?: number | undefined;
  /** Row range of the (indexed) matrix, e.g. the gate half of a fused gate|up tensor. */
  readonly rows?: readonly [begin: number, end: number] | undefined;
}

/** Key under which a slice is stored: `name`, `name[3]`, `name[3,0:16]` or `name[0:16]`. */
export function sliceKey(s: TensorSlice): string {
  const parts = [...(s.index === undefined ? [] : [`${s.index}`]), ...(s.rows ? [`${s.rows[0]}:${s.rows[1]}`] : [])];
  return parts.length > 0 ? `${s.name}[${parts.join(",")}]` : s.name;
}

export interface PlacedSlice {
  readonly shape: readonly number[];
  /** Byte range inside the tensor. */
  readonly begin: number;
  readonly end: number;
}

/** What a slice is cut from; `path` is its file, for messages. */
export interface SlicedTensor {
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  readonly path?: string;
}

/**
 * Shape and byte range of a slice of a tensor.
 * @param expected the shape that the slice must have, when that is known
 * @throws LayoutError the slice is outside the tensor, or has another shape
 */
export function placeSlice(s: TensorSlice, tensor: SlicedTensor, expected?: readonly number[]): PlacedSlice {
  const refuse = (fault: string): never => {
    const { path } = tensor;
    throw new LayoutError(`${path === undefined ? "" : `${path}: `}tensor ${fault}`, { where: { tensor: s.name, file: path } });
  };
  const outside = (wanted: string) => refuse(`"${s.name}" ${shownType(tensor)}: expected ${wanted}, found ${sliceKey(s)}`);
  let shape = tensor.shape;
  let first = 0; // in units of the remaining shape's rows
  if (s.index !== undefined) {
    const E = shape[0] ?? outside("a tensor with a first dimension to index");
    if (!Number.isSafeInteger(s.index) || s.index < 0 || s.index >= E) outside(`an index below ${E}`);
    shape = shape.slice(1);
    first = s.index * (shape[0] ?? 1);
  }
  const inner = tensorBytes(tensor.dtype, shape.slice(1)) ?? outside("rows of whole bytes");
  let last = first + (shape[0] ?? 1);
  if (s.rows) {
    const [a, b] = s.rows;
    const R = shape[0] ?? outside("a tensor with rows");
    if (!Number.isSafeInteger(a) || !Number.isSafeInteger(b) || a < 0 || a >= b || b > R) outside(`rows inside [0, ${R})`);
    shape = [b - a, ...shape.slice(1)];
    last = first + b;
    first += a;
  }
  if (expected && shape.join() !== expected.join()) {
    const whole = sliceKey(s) === s.name ? "" : ` of a tensor ${shownShape(tensor.shape)}`;
    refuse(`"${sliceKey(s)}": expected shape ${shownShape(expected)}, found ${shownShape(shape)}${whole}`);
  }
  return { shape, begin: first * inner, end: last * inner };
}

export type Placed<S extends TensorSlice> = PlacedSlice & { readonly slice: S };

/** Slices by tensor name, each list placed and sorted. @throws LayoutError unknown tensor, bad slice, or two slices overlap */
export function placeSlices<S extends TensorSlice>(
  slices: Iterable<S>,
  tensors: ReadonlyMap<string, SlicedTensor>,
): Map<string, Placed<S>[]> {
  const byName = new Map<string, Placed<S>[]>();
  for (const slice of slices) {
    const tensor = tensors.get(slice.name);
    if (!tensor)
      throw new LayoutError(`expected tensor "${slice.name}" in the base model, found no such tensor; is the adapter for another base?`, {
        where: { tensor: slice.name },
      });
    byName.set(slice.name, [...(byName.get(slice.name) ?? []), { ...placeSlice(slice, tensor), slice }]);
  }
  for (const list of byName.values()) {
    list.sort((a, b) => a.begin - b.begin);
    for (const [i, s] of list.entries()) {
      const before = list[i - 1];
      if (before && s.begin < before.end)
        throw new LayoutError(`expected slices that do not overlap, found ${sliceKey(before.slice)} and ${sliceKey(s.slice)}`, {
          where: { tensor: s.slice.name },
        });
    }
  }
  return byName;
}

/** The gaps between placed slices: the frozen byte ranges of a tensor of `bytes` bytes. */
export function frozenRanges(bytes: number, placed: readonly PlacedSlice[] | undefined): { begin: number; end: number }[] {
  const gaps: { begin: number; end: number }[] = [];
  let at = 0;
  for (const s of placed ?? []) {
    if (s.begin > at) gaps.push({ begin: at, end: s.begin });
    at = s.end;
  }
  if (at < bytes) gaps.push({ begin: at, end: bytes });
  return gaps;
}
