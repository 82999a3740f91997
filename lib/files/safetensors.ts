// safetensors reader: the header is parsed and checked completely before anything is believed; data is read by position.
//
//   file = u64 LE header length N · N bytes of JSON {name: {dtype, shape, data_offsets: [begin, end)}, "__metadata__": {…}} · data
//
// Refused: every header that is not exactly true of the file (truncated, oversized, overlapping, with holes, trailing bytes,
// unknown dtype, lying shape, duplicate names). Source: the format description of huggingface/safetensors.
import { constants } from "node:buffer";
import { basename } from "node:path";
import { LayoutError, MemoryError } from "../errors.ts";
import { layoutFault, shown, shownType } from "./fault.ts";
import { parseStrictJson } from "./json.ts";
import type { FileStamp } from "./regular.ts";
import { RegularFile } from "./regular.ts";

/** Bits per element of every dtype the format knows. */
export const DTYPE_BITS = {
  BOOL: 8, U8: 8, I8: 8, U16: 16, I16: 16, U32: 32, I32: 32, U64: 64, I64: 64,
  F64: 64, F32: 32, F16: 16, BF16: 16, C64: 64,
  F8_E5M2: 8, F8_E4M3: 8, F8_E8M0: 8, F6_E2M3: 6, F6_E3M2: 6, F4: 4,
} as const; // prettier-ignore

export type Dtype = keyof typeof DTYPE_BITS;

export interface TensorInfo {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  /** The file that holds it: its name and its full path. */
  readonly file: string;
  readonly path: string;
  /** Absolute byte offsets in the file. */
  readonly begin: number;
  readonly end: number;
}

/** Tensors by name, and their bytes. */
export interface TensorReader {
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  /** All bytes of a tensor, in a fresh buffer. */
  read(name: string): Promise<Uint8Array>;
  /** The bytes of a tensor piece by piece, for tensors of any size. */
  chunks(name: string, chunkBytes?: number): AsyncGenerator<Uint8Array>;
  /** Bytes [from, to) of a tensor. */
  range(name: string, from: number, to: number): Promise<Uint8Array>;
}

/** One file; its tensors in file order. */
export interface SafetensorsFile extends TensorReader {
  readonly path: string;
  readonly size: number;
  /** When its header was read. */
  readonly stamp: FileStamp;
  readonly metadata: Readonly<Record<string, string>>;
}

export const MAX_HEADER_BYTES = 100_000_000;
const MAX_RANK = 32;

/** Opens a file and checks its whole header. @throws LayoutError, IoError */
export async function openSafetensors(path: string): Promise<SafetensorsFile> {
  const { header, size, stamp } = await readHeader(path);
  const { tensors, metadata } = parseSafetensorsHeader(header, { path, size });
  return { path, size, stamp, metadata, ...tensorReader(path, tensors) };
}

/** Reads tensors of one file or several, from files that are held open where there are any; `place` is their file or folder, for messages. */
export function tensorReader(place: string, tensors: ReadonlyMap<string, TensorInfo>, held?: OpenFiles): TensorReader {
  const find = (name: string): TensorInfo => {
    const tensor = tensors.get(name);
    if (tensor) return tensor;
    const message = `${place}: expected tensor "${name}", found ${tensors.size} tensors without it`;
    throw new LayoutError(message, { where: { file: place, tensor: name } });
  };
  return {
    tensors,
    read: async (name) => readTensor(find(name), held),
    chunks: (name, chunkBytes) => readChunks(find(name), chunkBytes, held),
    range: async (name, from, to) => {
      const { path, begin } = find(name);
      return readFileRange(path, begin + from, begin + to, held);
    },
  };
}

/** Files that are open already. */
export interface OpenFiles {
  get(path: string): RegularFile | undefined;
}

async function readHeader(path: string): Promise<{ header: Uint8Array; size: number; stamp: FileStamp }> {
  await using file = await RegularFile.open(path);
  const { size, stamp } = file;
  if (size < 8) throw layoutFault(path, `expected at least the 8 bytes of the header length, found ${size} bytes; the file is truncated`);
  const length = new DataView((await file.read(0, 8)).buffer).getBigUint64(0, true);
  if (length > BigInt(MAX_HEADER_BYTES))
    throw layoutFault(
      path,
      `expected a header of at most ${MAX_HEADER_BYTES} bytes, found a length of ${length}; this is not a safetensors file`,
    );
  if (8 + Number(length) > size)
    throw layoutFault(path, `expected a header of ${length} bytes, found only ${size - 8} bytes after its length; the file is truncated`);
  return { header: await file.read(8, 8 + Number(length)), size, stamp };
}

/** Checks header JSON against the size of its file. Exported for tests and for headers fetched over the network. */
export function parseSafetensorsHeader(
  header: Uint8Array,
  place: { readonly path: string; readonly size: number },
): { tensors: Map<string, TensorInfo>; metadata: Record<string, string> } {
  const fail = (message: string, tensor?: string): never => {
    throw layoutFault(place.path, message, tensor);
  };
  let json: unknown;
  try {
    if (header[0] !== 123) throw new Error(`the first byte must be "{", it is ${header.length ? header[0] : "missing"}`);
    json = parseStrictJson(new TextDecoder("utf-8", { fatal: true }).decode(header), { maxDepth: 3, maxItems: 8_000_000 });
  } catch (error) {
    fail(`expected a JSON header, found: ${(error as Error).message}`);
  }

  const dataBegin = 8 + header.byteLength;
  const dataBytes = place.size - dataBegin;
  const list: TensorInfo[] = [];
  let metadata: Record<string, string> = {};
  for (const [name, value] of Object.entries(json as object)) {
    if (name === "__metadata__") metadata = checkMetadata(value, fail);
    else list.push({ name, ...checkTensor(name, value, dataBegin, dataBytes, fail), file: basename(place.path), path: place.path });
  }

  // Sorted by position, every tensor must begin where the one before it ended: no overlap, no hole, no trailing bytes.
  list.sort((a, b) => a.begin - b.begin || a.end - b.end);
  let at = dataBegin;
  let before = "";
  for (const t of list) {
    const found = `found data_offsets [${t.begin - dataBegin}, ${t.end - dataBegin}]`;
    if (t.begin < at)
      fail(`expected data after that of ${shown(before)}, which ends at ${at - dataBegin}, ${found}; the two overlap`, t.name);
    if (t.begin > at) fail(`expected data to begin at ${at - dataBegin}, ${found}; bytes in between belong to no tensor`, t.name);
    at = t.end;
    before = t.name;
  }
  if (at !== place.size) fail(`expected the data to end with the last tensor at byte ${at}, found ${place.size - at} trailing bytes`);
  return { tensors: new Map(list.map((t) => [t.name, t])), metadata };
}

type Extent = Pick<TensorInfo, "dtype" | "shape" | "begin" | "end">;
type Fail = (message: string, tensor?: string) => never;

function checkMetadata(value: unknown, fail: Fail): Record<string, string> {
  if (!isObject(value)) return fail(`"__metadata__": expected an object of strings, found ${kind(value)}`);
  for (const [key, entry] of Object.entries(value))
    if (typeof entry !== "string") fail(`"__metadata__": expected a string under ${shown(key)}, found ${kind(entry)}`);
  return value as Record<string, string>;
}

function checkTensor(name: string, value: unknown, dataBegin: number, dataBytes: number, fail: Fail): Extent {
  if (!isObject(value)) return fail(`expected an object with dtype, shape and data_offsets, found ${kind(value)}`, name);
  for (const key of Object.keys(value))
    if (key !== "dtype" && key !== "shape" && key !== "data_offsets")
      fail(`expected only dtype, shape and data_offsets, found ${shown(key)}`, name);
  const { dtype, shape, data_offsets: offsets } = value;
  if (typeof dtype !== "string" || !Object.hasOwn(DTYPE_BITS, dtype))
    return fail(`expected a dtype among ${Object.keys(DTYPE_BITS).join(", ")}, found ${shown(dtype)}`, name);
  if (!Array.isArray(shape) || !shape.every(isSize)) return fail(`expected a shape of non-negative integers, found ${shown(shape)}`, name);
  if (shape.length > MAX_RANK) fail(`expected at most ${MAX_RANK} dimensions, found ${shape.length}`, name);
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isSize))
    return fail(`expected data_offsets [begin, end] of non-negative integers, found ${shown(offsets)}`, name);
  const [begin, end] = offsets as [number, number];
  if (begin > end) fail(`expected data_offsets with begin <= end, found [${begin}, ${end}]`, name);
  if (end > dataBytes) fail(`expected data within the ${dataBytes} data bytes of the file, found data_offsets [${begin}, ${end}]`, name);
  const extent: Extent = { dtype: dtype as Dtype, shape, begin: dataBegin + begin, end: dataBegin + end };
  const bytes = tensorBytes(extent.dtype, shape);
  if (bytes === null)
    fail(`expected a shape whose ${dtype} elements fill whole bytes and can be counted exactly, found ${shown(shape)}`, name);
  if (bytes !== end - begin) fail(`expected ${bytes} bytes for ${shownType(extent)}, found data_offsets of ${end - begin} bytes`, name);
  return extent;
}

/** Bytes of a tensor, or null when they are not a whole, exactly representable number. */
export function tensorBytes(dtype: Dtype, shape: readonly number[]): number | null {
  const bits = shape.reduce((n, size) => n * BigInt(size), BigInt(DTYPE_BITS[dtype]));
  return bits % 8n === 0n && bits / 8n <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(bits / 8n) : null;
}

const isSize = (n: unknown): n is number => Number.isSafeInteger(n) && (n as number) >= 0;
const isObject = (v: unknown): v is Record<string, unknown> => typeof v === "object" && v !== null && !Array.isArray(v);
const kind = (v: unknown) => (v === null ? "null" : Array.isArray(v) ? "an array" : `a value of type ${typeof v}`);

async function readTensor({ path, name, begin, end }: TensorInfo, held?: OpenFiles): Promise<Uint8Array> {
  if (end - begin > constants.MAX_LENGTH)
    throw new MemoryError(
      `${path}: tensor "${name}" has ${end - begin} bytes, one buffer holds at most ${constants.MAX_LENGTH}; read it in chunks`,
      { where: { file: path, tensor: name } },
    );
  return readFileRange(path, begin, end, held);
}

/** Bytes [begin, end) of a file (a tensor) in pieces of `chunkBytes`; each piece is a fresh buffer. */
export async function* readChunks(
  { path, begin, end }: { readonly path: string; readonly begin: number; readonly end: number },
  chunkBytes = 8 * 1024 * 1024,
  held?: OpenFiles,
): AsyncGenerator<Uint8Array> {
  const open = held?.get(path);
  await using own = open ? null : await RegularFile.open(path);
  const file = open ?? own!;
  for (let at = begin; at < end; at += chunkBytes) yield await file.read(at, Math.min(at + chunkBytes, end));
}

/** Bytes [begin, end) of a file. */
export async function readFileRange(path: string, begin: number, end: number, held?: OpenFiles): Promise<Uint8Array> {
  const open = held?.get(path);
  if (open) return open.read(begin, end);
  await using file = await RegularFile.open(path);
  return await file.read(begin, end);
}
