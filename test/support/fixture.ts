// Tiny files for the io and esft tests: a deterministic checkpoint (per-expert or fused), raw safetensors bytes, temp folders.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll } from "vitest";
import { encodeFloats } from "../../lib/files/floats.ts";
import type { Dtype } from "../../lib/files/safetensors.ts";
import { writeSafetensors } from "../../lib/files/safetensors_writer.ts";

/** A folder that is removed after the test file. */
export function tempDir(): string {
  const dir = mkdtempSync(join(tmpdir(), "esft-test-"));
  afterAll(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

/** Deterministic floats in (-1, 1). */
export function floats(n: number, seed: number): Float32Array {
  let s = seed >>> 0 || 1;
  return Float32Array.from({ length: n }, () => {
    s = (Math.imul(s, 1664525) + 1013904223) >>> 0;
    return s / 2 ** 31 - 1;
  });
}

/** A safetensors file from a header given as text (or object) and data bytes. */
export function rawSafetensors(header: string | object, data: Uint8Array | number = 0): Buffer {
  const json = Buffer.from(typeof header === "string" ? header : JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  return Buffer.concat([length, json, typeof data === "number" ? Buffer.alloc(data) : data]);
}

export const LAYERS = 3; // layer 0 is dense
export const EXPERTS = 4;
const D = 8;
const F = 6;

export interface TinyOptions {
  readonly dtype?: Dtype;
  readonly fused?: boolean;
  readonly shards?: number;
  readonly seed?: number;
  /** config.json; default: of an architecture that nobody knows. */
  readonly config?: Readonly<Record<string, unknown>>;
}

/** Writes a tiny MoE checkpoint in the Hugging Face layout and returns its tensor names in file order. */
export async function tinyCheckpoint(dir: string, options: TinyOptions = {}): Promise<string[]> {
  const { dtype = "BF16", fused = false, shards = 1, seed = 1, config = { model_type: "tiny", hidden_size: D } } = options;
  const shapes: [string, number[]][] = [["model.embed_tokens.weight", [10, D]]];
  for (let l = 0; l < LAYERS; l++) {
    const at = `model.layers.${l}`;
    shapes.push([`${at}.self_attn.q_proj.weight`, [D, D]]);
    if (l === 0) continue;
    shapes.push([`${at}.mlp.gate.weight`, [EXPERTS, D]], [`${at}.mlp.shared_experts.up_proj.weight`, [F, D]]);
    if (fused) shapes.push([`${at}.mlp.experts.gate_up_proj`, [EXPERTS, 2 * F, D]], [`${at}.mlp.experts.down_proj`, [EXPERTS, D, F]]);
    else
      for (let e = 0; e < EXPERTS; e++)
        for (const [part, shape] of [
          ["down_proj", [D, F]],
          ["gate_proj", [F, D]],
          ["up_proj", [F, D]],
        ] as const)
          // prettier-ignore
          shapes.push([`${at}.mlp.experts.${e}.${part}.weight`, [...shape]]);
  }
  const entries = shapes.map(([name, shape], i) => ({ name, dtype, shape, data: encodeFloats(floats(shape.reduce((a, b) => a * b, 1), seed * 1000 + i), dtype) })); // prettier-ignore
  writeFileSync(join(dir, "config.json"), JSON.stringify(config));
  writeFileSync(join(dir, "tokenizer.json"), "{}");
  writeFileSync(join(dir, "README.md"), "card of the base");
  if (shards === 1) {
    await writeSafetensors(join(dir, "model.safetensors"), entries, { metadata: { format: "pt" } });
  } else {
    const map: Record<string, string> = {};
    for (let s = 0; s < shards; s++) {
      const file = `model-${String(s + 1).padStart(5, "0")}-of-${String(shards).padStart(5, "0")}.safetensors`;
      const own = entries.filter((_, i) => i % shards === s);
      for (const e of own) map[e.name] = file;
      await writeSafetensors(join(dir, file), own, { metadata: { format: "pt" } });
    }
    writeFileSync(join(dir, "model.safetensors.index.json"), JSON.stringify({ metadata: {}, weight_map: map }));
  }
  return entries.map((e) => e.name);
}
