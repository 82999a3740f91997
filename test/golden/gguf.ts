// Tensors of a GGUF file, version 3, as far as the fixtures need it: docs/gguf.md of ggml.

import { readFileSync } from "node:fs";
import type { MappedFile, MappedWeight } from "../../lib/tensor.ts";

/** ggml's types: name of the decoder, values and bytes of a block. */
const types: Readonly<Record<number, readonly [codes: string, values: number, bytes: number]>> = {
  0: ["f32", 1, 4],
  8: ["q8_0", 32, 34],
  12: ["q4_K", 256, 144],
  14: ["q6_K", 256, 210],
  30: ["bf16", 1, 2],
  39: ["mxfp4_block", 32, 17],
};
/** Bytes of a value of the key-value part; 8 is a string. */
const sizes: Readonly<Record<number, number>> = { 0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8 };
const ALIGNMENT = 32;

export interface GgufTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly codes: string;
  readonly begin: number;
  readonly end: number;
}

export function readGguf(path: string): GgufTensor[] {
  const data = readFileSync(path);
  if (data.toString("latin1", 0, 4) !== "GGUF" || data.readUInt32LE(4) !== 3) throw new Error(`${path}: expected GGUF, version 3`);
  let at = 8;
  const u32 = (): number => data.readUInt32LE((at += 4) - 4);
  const u64 = (): number => Number(data.readBigUInt64LE((at += 8) - 8));
  const text = (): string => {
    const n = u64();
    return data.toString("utf8", at, (at += n));
  };
  const [tensors, keys] = [u64(), u64()];
  for (let i = 0; i < keys; i++) {
    text();
    const kind = u32();
    if (kind === 8) text();
    else at += sizes[kind] ?? unknown(path, `a value of type ${kind}`);
  }
  const infos = Array.from({ length: tensors }, () => {
    const name = text();
    const shape = Array.from({ length: u32() }, u64).reverse();
    return { name, shape, type: u32(), offset: u64() };
  });
  const start = Math.ceil(at / ALIGNMENT) * ALIGNMENT;
  return infos.map(({ name, shape, type, offset }) => {
    const [codes, values, bytes] = types[type] ?? unknown(path, `a tensor of type ${type}`);
    const count = shape.reduce((a, b) => a * b, 1);
    return { name, shape, codes, begin: start + offset, end: start + offset + (count / values) * bytes };
  });
}
function unknown(path: string, what: string): never {
  throw new Error(`${path}: ${what} is not known here`);
}

/** One of blocks as the addon is given it. */
export function ggufWeight({ name, shape, codes, begin, end }: GgufTensor, file: MappedFile): MappedWeight {
  const cols = shape.at(-1) ?? 1;
  const rows = shape.slice(0, -1).reduce((a, b) => a * b, 1);
  const plain = { scale: "none", rounding: "f32", zeros: "none", matrices: 1, transposed: false } as const;
  const blocks = { blockRows: 1, blockCols: cols, nestedBlock: 1, nestedOffset: 0, factor: 1 };
  return { label: `${file.path}: tensor "${name}"`, codes, rows, cols, ...plain, ...blocks, parts: { codes: { file, begin, end } } };
}
