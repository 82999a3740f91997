// Values of weights that are quantised on disk: how they are asked of the addon, and the checkpoint that merging makes of them.
//
// The dequantised checkpoint holds every weight under the model's name: bf16 where it was quantised (what the formats' libraries compute
// with), as stored otherwise; scales and the like are gone. Digests, merging and its verification look at a base through it, so that they
// mean the same for a base that is quantised and for one that is not.

import type { Checkpoint } from "./files/checkpoint.ts";
import { layoutFault } from "./files/fault.ts";
import type { Packed, WeightInfo } from "./files/quantised/packed.ts";
import { matrixShape, plainParts } from "./files/quantised/packed.ts";
import { tensorBytes } from "./files/safetensors.ts";
import type { Dequantise } from "./options.ts";
import { bytesOf, Device, MappedFile } from "./tensor.ts";
import type { DType, MappedWeight } from "./tensor.ts";

/** How a weight has to be decoded; null: its bytes are its values. F16 is, for nothing computes with it. */
export function packedOf(w: WeightInfo): Packed | null {
  if (w.packed || w.dtype !== "F16") return w.packed;
  const { stored, shape } = w;
  const { matrices, rows, cols } = shape.length < 2 ? { matrices: 1, rows: 1, cols: shape[0] ?? 1 } : matrixShape(shape);
  const parts = { codes: { path: stored.path, begin: stored.begin, end: stored.end } };
  const layout = { ...plainParts, codes: "f16", scale: "none", rounding: "f32", held: "F32" } as const;
  return { ...layout, scheme: "F16", matrices, rows, cols, blockCols: cols, parts, bytes: stored.end - stored.begin };
}

/** What it is in memory. */
export function memoryDtype(w: WeightInfo, packed: Packed, dequantise: Dequantise): DType {
  return packed.held === "BF16" || (dequantise === "bf16" && w.packed) ? "bf16" : "f32";
}

/** The weight as the addon is given it. @param fileOf a mapping of a file, which must outlive the decoding */
export function mappedWeight(w: WeightInfo, packed: Packed, dequantise: Dequantise, fileOf: (path: string) => MappedFile): MappedWeight {
  const toBf16 = { f32: "bf16", bf16: "bf16", f16: "f16,bf16" } as const;
  const parts = Object.entries(packed.parts).map(([name, p]) => [name, { file: fileOf(p.path), begin: p.begin, end: p.end }] as const);
  return {
    ...packed,
    label: `${w.path}: tensor "${w.name}"`,
    rounding: dequantise === "bf16" && w.packed ? toBf16[packed.rounding] : packed.rounding,
    parts: Object.fromEntries(parts),
  };
}

const PIECE = 8 * 1024 * 1024; // bytes

/** Every weight of a checkpoint, in bytes as the dequantised checkpoint holds them. Weights that are not quantised pass as they are. */
export class DequantisedCheckpoint implements Disposable {
  readonly tensors: ReadonlyMap<string, WeightInfo>;
  private readonly checkpoint: Checkpoint;
  private readonly files = new Map<string, MappedFile>();
  private device: Device | null = null;

  constructor(checkpoint: Checkpoint) {
    this.checkpoint = checkpoint;
    this.tensors = checkpoint.weights;
  }

  /** Bytes of all weights. */
  get totalBytes(): number {
    return [...this.tensors.values()].reduce((n, w) => n + tensorBytes(w.dtype, w.shape)!, 0);
  }

  /** Bytes [from, to) of a weight, all unless given, piece by piece. */
  async *chunks(name: string, from = 0, to = this.bytesOf(name)): AsyncGenerator<Uint8Array> {
    const w = this.find(name);
    if (!w.packed && from === 0 && to === this.bytesOf(name)) return yield* this.checkpoint.chunks(name, PIECE);
    // Of a packed one whole rows, so that none is decoded twice.
    const rowBytes = w.packed ? rowBytesOf(w) : 1;
    const step = Math.max(1, Math.floor(PIECE / rowBytes)) * rowBytes;
    for (let at = from; at < to;) {
      const end = Math.min(to, Math.floor(at / rowBytes) * rowBytes + step);
      yield await this.range(name, at, end);
      at = end;
    }
  }

  /** Bytes [from, to) of a weight. */
  async range(name: string, from: number, to: number): Promise<Uint8Array> {
    const w = this.find(name);
    if (!w.packed) return this.checkpoint.range(name, from, to);
    const rowBytes = rowBytesOf(w);
    const first = Math.floor(from / rowBytes);
    const bytes = await this.rows(w, w.packed, first, Math.ceil(to / rowBytes));
    return bytes.subarray(from - first * rowBytes, to - first * rowBytes);
  }

  private bytesOf(name: string): number {
    const { dtype, shape } = this.find(name);
    return tensorBytes(dtype, shape)!;
  }

  private find(name: string): WeightInfo {
    const w = this.tensors.get(name);
    if (!w) throw layoutFault(this.checkpoint.dir, `expected this weight, found ${this.tensors.size} others`, name);
    return w;
  }

  private async rows(w: WeightInfo, packed: Packed, first: number, end: number): Promise<Uint8Array> {
    this.device ??= new Device({ kind: "cpu" });
    const fileOf = (path: string): MappedFile => {
      let file = this.files.get(path);
      if (!file) this.files.set(path, (file = new MappedFile(this.checkpoint.files.get(path)?.reopened ?? path)));
      return file;
    };
    using tensor = this.device.empty("bf16", [end - first, w.shape.at(-1)!]);
    tensor.decode(mappedWeight(w, packed, "bf16", fileOf), first);
    return new Uint8Array(await tensor.readBytes());
  }

  [Symbol.dispose](): void {
    this.device?.dispose();
    for (const file of this.files.values()) file.dispose();
    this.files.clear();
  }
}

const rowBytesOf = ({ shape }: WeightInfo): number => shape.at(-1)! * bytesOf("bf16");
