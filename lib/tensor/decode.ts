// A packed weight in mapped files, as the addon is given it: csrc/quant/packed_weight.h says what the words and numbers mean.

import type { NativeMappedFile } from "../native.ts";
import type { MappedFile } from "./mapped_file.ts";

/** Bytes [begin, end) of a mapped file. */
export interface MappedPart {
  readonly file: MappedFile;
  readonly begin: number;
  readonly end: number;
}

export interface MappedWeight {
  /** File and tensor, for messages. */
  readonly label: string;
  readonly codes: string;
  readonly scale: string;
  /** "f32", "bf16", "f16" or "f16,bf16". */
  readonly rounding: string;
  readonly zeros: string;
  readonly matrices: number;
  readonly rows: number;
  readonly cols: number;
  readonly transposed: boolean;
  readonly blockRows: number;
  readonly blockCols: number;
  readonly nestedBlock: number;
  readonly nestedOffset: number;
  readonly factor: number;
  readonly parts: Readonly<Record<string, MappedPart>>;
}

type DecodeArguments = [label: string, words: string[], numbers: number[], parts: string[], files: NativeMappedFile[], ranges: number[]];

export function decodeArguments(w: MappedWeight, firstRow: number): DecodeArguments {
  const parts = Object.entries(w.parts);
  return [
    w.label,
    [w.codes, w.scale, w.rounding, w.zeros],
    [w.matrices, w.rows, w.cols, w.transposed ? 1 : 0, w.blockRows, w.blockCols, w.nestedBlock, w.nestedOffset, w.factor, firstRow],
    parts.map(([name]) => name),
    parts.map(([, { file }]) => file.handle),
    parts.flatMap(([, { begin, end }]) => [begin, end]),
  ];
}
