// Weights quantised on disk, as their formats' libraries dequantise them: NAME.safetensors holds stored tensors and `expected.<weight>`,
// NAME.json the quantization_config, NAME.gguf the stored tensors where they are GGUF's. Every bit must agree, NaN with NaN. Each weight
// is decoded to f32 and bf16, as a whole and from its second row on.

import { existsSync, readFileSync } from "node:fs";
import { basename, dirname, join, parse } from "node:path";
import { f32ToBf16, bf16ToF32 } from "../../lib/floats.ts";
import { decodeFloats } from "../../lib/files/floats.ts";
import { findWeights, quantizationConfig } from "../../lib/files/quantised/index.ts";
import { openSafetensors } from "../../lib/files/safetensors.ts";
import type { SafetensorsFile, TensorInfo } from "../../lib/files/safetensors.ts";
import { mappedWeight, packedOf } from "../../lib/quantised.ts";
import { MappedFile } from "../../lib/tensor.ts";
import type { Device, MappedWeight } from "../../lib/tensor.ts";
import { report } from "./compare.ts";
import type { Checks, Report } from "./compare.ts";
import { ggufWeight, readGguf } from "./gguf.ts";

const EXPECTED = "expected.";

/** Tensors with what the others stand for, by weight. Two older files have no prefix: X.dequantised for X.weight, X for X_blocks. */
function expectations({ tensors }: SafetensorsFile): Map<string, TensorInfo> {
  const out = new Map<string, TensorInfo>();
  for (const t of tensors.values()) {
    if (t.name.startsWith(EXPECTED)) out.set(t.name.slice(EXPECTED.length), t);
    else if (t.name.endsWith(".dequantised")) out.set(t.name.replace(/dequantised$/, "weight"), t);
    else if (tensors.has(`${t.name}_blocks`)) out.set(t.name, t);
  }
  return out;
}

function configOf(path: string, stored: ReadonlyMap<string, TensorInfo>): Readonly<Record<string, unknown>> {
  const file = join(dirname(path), `${parse(path).name}.json`);
  if (existsSync(file)) {
    const config = JSON.parse(readFileSync(file, "utf8")) as Record<string, unknown>;
    return quantizationConfig(config, file) ? config : { quantization_config: config };
  }
  const blocks = [...stored.keys()].some((name) => name.endsWith("_blocks"));
  return { quantization_config: blocks ? { quant_method: "mxfp4" } : { quant_method: "fp8", weight_block_size: [128, 128] } };
}

interface Stored {
  readonly shape: readonly number[];
  /** Null: its bytes are its values. */
  readonly weight: MappedWeight | null;
}

async function storedWeights(
  path: string,
  stored: ReadonlyMap<string, TensorInfo>,
  file: SafetensorsFile,
  map: (path: string) => MappedFile,
) {
  const gguf = join(dirname(path), `${parse(path).name}.gguf`);
  if (existsSync(gguf))
    return new Map(
      readGguf(gguf).map((t): [string, Stored] => [t.name, { shape: t.shape, weight: t.codes === "f32" || t.codes === "bf16" ? null : ggufWeight(t, map(gguf)) }]),
    ); // prettier-ignore
  const weights = await findWeights(configOf(path, stored), path, stored, [file]);
  return new Map(
    [...weights.values()].map((w): [string, Stored] => {
      const packed = packedOf(w);
      return [w.name, { shape: w.shape, weight: packed && mappedWeight(w, packed, "exact", map) }];
    }),
  );
}

/** Elements that differ, a NaN equal to any. */
function differing(found: Float32Array, wanted: Float32Array): number {
  if (found.length !== wanted.length) return Number.POSITIVE_INFINITY;
  let n = 0;
  for (let i = 0; i < found.length; i++) if (!Object.is(found[i], wanted[i])) n++;
  return n;
}

async function compare(checks: Checks, device: Device, name: string, { shape, weight }: Stored, wanted: Float32Array): Promise<void> {
  if (!weight) return;
  const width = shape.at(-1)!;
  for (const firstRow of [0, 1]) {
    const rows = wanted.length / width - firstRow;
    if (rows < 1) continue;
    const want = wanted.subarray(firstRow * width);
    using f32 = device.empty("f32", [rows, width]);
    f32.decode(weight, firstRow);
    checks.add("f32", differing(await f32.readF32(), want), 0, `${name} from row ${firstRow}`);
    using bf16 = device.empty("bf16", [rows, width]);
    bf16.decode(weight, firstRow);
    checks.add("bf16", differing(await bf16.readF32(), bf16ToF32(f32ToBf16(want.slice()))), 0, `${name} from row ${firstRow}`);
  }
}

export function checkQuantised(device: Device, path: string): Promise<Report> {
  return report(async (checks) => {
    const file = await openSafetensors(path);
    const expected = expectations(file);
    const answers = new Set(expected.values());
    const stored = new Map([...file.tensors].filter(([, t]) => !answers.has(t)));
    const files = new Map<string, MappedFile>();
    const map = (at: string): MappedFile => {
      const known = files.get(at);
      if (known) return known;
      const mapped = new MappedFile(at);
      files.set(at, mapped);
      return mapped;
    };
    try {
      const weights = await storedWeights(path, stored, file, map);
      const decoded = [...weights].flatMap(([name, { weight }]) => (weight ? [name] : []));
      const unknown = decoded.filter((name) => !expected.has(name));
      const missing = [...expected.keys()].filter((name) => !weights.has(name));
      checks.add("weights", unknown.length + missing.length, 0, `${basename(path)}: ${[...unknown, ...missing].join(" ")}`);
      for (const [name, t] of expected) {
        const weight = weights.get(name);
        if (!weight) continue;
        checks.add("shapes", weight.shape.join() === t.shape.join() ? 0 : 1, 0, `${name}: [${weight.shape.join(", ")}]`);
        await compare(checks, device, name, weight, decodeFloats(await file.read(t.name), t.dtype));
      }
    } finally {
      for (const mapped of files.values()) mapped.dispose();
    }
  });
}
