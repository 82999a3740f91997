// safetensors files: whatever is accepted covers the file exactly, every tensor where the header says, and reads as those bytes.

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { DTYPE_BITS, openSafetensors, parseSafetensorsHeader } from "../../../lib/files/safetensors.ts";
import type { SafetensorsFile, TensorInfo } from "../../../lib/files/safetensors.ts";
import type { Case, Format } from "../case.ts";
import { difference, mutateJson } from "../case.ts";
import { changeBytes } from "../mutate_bytes.ts";
import { Random } from "../random.ts";
import { jsonOf, toTree } from "../tree.ts";

type Header = Record<string, { dtype: keyof typeof DTYPE_BITS; shape: number[]; data_offsets: [number, number] }>;

function headerOf(tensors: readonly (readonly [string, keyof typeof DTYPE_BITS, number[]])[], metadata?: Record<string, string>) {
  let at = 0;
  const header: Record<string, unknown> = metadata ? { __metadata__: metadata } : {};
  for (const [name, dtype, shape] of tensors) {
    const bytes = (shape.reduce((a, b) => a * b, 1) * DTYPE_BITS[dtype]) / 8;
    header[name] = { dtype, shape, data_offsets: [at, at + bytes] };
    at += bytes;
  }
  return { header, bytes: at };
}

const SEEDS = [
  headerOf([["a", "F32", [2, 3]], ["b", "BF16", [4]], ["c", "F32", []], ["empty", "I64", [0, 7]]], { format: "pt" }),
  headerOf([["model.layers.0.mlp.experts.0.up_proj.weight", "BF16", [6, 8]], ["model.layers.0.mlp.experts.1.up_proj.weight", "BF16", [6, 8]]]),
  headerOf([["x", "F4", [2, 2]], ["y", "F6_E2M3", [4]], ["z", "F8_E4M3", [3]], ["w", "BOOL", [5]], ["v", "C64", [2]]]),
  headerOf([]),
]; // prettier-ignore

const bytesOf = (t: { dtype: keyof typeof DTYPE_BITS; shape: readonly number[] }): number =>
  Number(t.shape.reduce((n, size) => n * BigInt(size), BigInt(DTYPE_BITS[t.dtype]))) / 8;

export const safetensors: Format = {
  name: "safetensors",
  async open(dir) {
    const path = join(dir, "x.safetensors");
    const data = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
    return (dice): Case => {
      const { header, bytes: dataBytes } = dice.top.pick(SEEDS);
      const asFile = dice.top.once(16);
      const shift = asFile && dice.top.once(4) ? dice.top.pick([1, -1, 8, 2 ** 31, -(2 ** 20), 1e15]) : 0; // in the length of the header
      const { bytes: json, steps, same } = mutateJson(toTree(header), dice);
      const tail = dice.top.once(12) ? dice.top.pick([-1, 1, 8, -dataBytes, 1000]) : 0; // in the length of the data
      let file: Uint8Array = Buffer.concat([lengthOf(json.length + shift), json, data.subarray(0, Math.max(0, dataBytes + tail))]);
      if (shift) steps.push(`says ${shift} more bytes of header`);
      if (tail) steps.push(`has ${tail} more bytes of data`);
      if (asFile && dice.top.once(3)) {
        const change = changeBytes(file, new Random(dice.top.next()));
        file = change.bytes;
        steps.push(change.what);
      }
      return {
        steps,
        files: { "x.safetensors": file },
        file: "x.safetensors",
        same: same && steps.every((s) => s.startsWith("reorders") || s === "nothing" || s === "adds white space") && json[0] === 123,
        parse: async () => {
          if (asFile) {
            writeFileSync(path, file);
            const opened = await openSafetensors(path);
            const read = await Promise.all([...opened.tensors.keys()].map((name) => opened.read(name)));
            return { ...opened, read };
          }
          return parseSafetensorsHeader(file.subarray(8, 8 + json.length), {
            path: "x.safetensors",
            size: file.length,
          });
        },
        judge: (found: Pick<SafetensorsFile, "tensors" | "metadata"> & { read?: Uint8Array[] }) => judge(file, found),
      };
    };
  },
};

function lengthOf(n: number): Uint8Array {
  const bytes = Buffer.alloc(8);
  bytes.writeBigInt64LE(BigInt(n));
  return bytes;
}

/** The format description, word by word. */
function judge(
  file: Uint8Array,
  found: { tensors: ReadonlyMap<string, TensorInfo>; metadata: object; read?: readonly Uint8Array[] },
): string | null {
  const length = Number(Buffer.from(file.buffer, file.byteOffset, 8).readBigUInt64LE());
  const begin = 8 + length;
  if (begin > file.length) return `accepted a header of ${length} bytes in a file of ${file.length}`;
  const said = jsonOf(file.subarray(8, begin));
  if (!said) return "accepted a header that is not JSON with each name once";
  const { __metadata__: metadata = {}, ...header } = said.value as Header & { __metadata__?: object };
  const covered = new Uint8Array(file.length - begin);
  for (const [name, t] of Object.entries(header)) {
    const [from, to] = t.data_offsets;
    if (to - from !== bytesOf(t)) return `accepted ${name} with ${to - from} bytes for ${bytesOf(t)}`;
    if (covered.subarray(from, to).includes(1)) return `accepted ${name}, which overlaps another`;
    covered.fill(1, from, to);
    const { dtype, shape, begin: at, end } = found.tensors.get(name) ?? {};
    const d = difference({ dtype: t.dtype, shape: t.shape, at: begin + from, end: begin + to }, { dtype, shape, at, end }, name);
    if (d !== null) return d;
  }
  if (found.tensors.size !== Object.keys(header).length)
    return `expected ${Object.keys(header).length} tensors, found ${found.tensors.size}`;
  const hole = covered.indexOf(0);
  if (hole !== -1) return `accepted a file whose data byte ${hole} belongs to no tensor`;
  for (const [i, t] of [...found.tensors.values()].entries())
    if (found.read && Buffer.compare(found.read[i]!, file.subarray(t.begin, t.end)) !== 0) return `read other bytes of ${t.name}`;
  return difference(metadata, found.metadata, "__metadata__");
}
