// Adapters of tiny checkpoints for the tests of this folder: experts 0 and 2 of layer 1 and 3 of layer 2, the base's values with noise.
import { mkdtempSync } from "node:fs";
import { join } from "node:path";
import { Adapter } from "../../lib/adapter/adapter.ts";
import { frozenDigest } from "../../lib/adapter/digest.ts";
import type { AdapterTensor } from "../../lib/adapter/tensors.ts";
import { ExpertSet } from "../../lib/experts/expert_set.ts";
import type { Checkpoint } from "../../lib/files/checkpoint.ts";
import { openCheckpoint } from "../../lib/files/checkpoint.ts";
import { decodeFloats, encodeFloats } from "../../lib/files/floats.ts";
import { hashCheckpoint } from "../../lib/files/hash.ts";
import type { Dtype } from "../../lib/files/safetensors.ts";
import { placeSlice } from "../../lib/files/slice.ts";
import type { TinyOptions } from "../support/fixture.ts";
import { EXPERTS, floats, LAYERS, tempDir, tinyCheckpoint } from "../support/fixture.ts";
import { tinyDeepseek, writeTinyModel } from "../support/tiny_model.ts";

const root = tempDir();
/** A new empty folder, removed after the test file. */
export const fresh = () => mkdtempSync(join(root, "d-"));

export async function makeBase(options: TinyOptions = {}): Promise<Checkpoint> {
  const dir = fresh();
  await tinyCheckpoint(dir, options);
  return openCheckpoint(dir);
}

export const experts = new ExpertSet({ layers: [[1, { ranked: [2, 0] }], [2, { ranked: [3] }]], rule: { score: "token", p: 0.2 } }); // prettier-ignore
const PARTS = ["down", "gate", "up"] as const;

/** The same sizes as a complete model: what tensors are to a model is known only of one that is described. */
export async function makeServedBase(over: Readonly<Record<string, unknown>> = {}): Promise<Checkpoint> {
  const dir = fresh();
  const sizes = { hidden_size: 8, moe_intermediate_size: 6, num_hidden_layers: LAYERS, n_routed_experts: EXPERTS, vocab_size: 10 };
  await writeTinyModel(dir, { ...tinyDeepseek, ...sizes, ...over }, { tokenizer: false });
  return openCheckpoint(dir);
}

/** Trained tensors = base + noise, in `dtype`. Fused bases: down_proj whole, gate_up_proj as two row slices. */
export async function makeTensors(base: Checkpoint, dtype: Dtype = "F32", of: ExpertSet = experts): Promise<AdapterTensor[]> {
  const tensors: AdapterTensor[] = [];
  for (const [layer, { ids }] of of.layers)
    for (const e of ids) {
      const at = `model.layers.${layer}.mlp.experts`;
      const fused = base.tensors.has(`${at}.down_proj`);
      const slices = PARTS.map((part) => {
        if (!fused) return { name: `${at}.${e}.${part}_proj.weight`, part };
        if (part === "down") return { name: `${at}.down_proj`, index: e, part };
        return { name: `${at}.gate_up_proj`, index: e, rows: part === "gate" ? ([0, 6] as const) : ([6, 12] as const), part };
      });
      for (const s of slices) {
        const t = base.tensors.get(s.name)!;
        const placed = placeSlice(s, t);
        const values = decodeFloats((await base.read(s.name)).slice(placed.begin, placed.end), t.dtype);
        const noise = floats(values.length, layer * 100 + e);
        const bytes = encodeFloats(values.map((v, i) => v + 0.1 * noise[i]!), dtype); // prettier-ignore
        tensors.push({ ...s, role: "expert", layer, expert: e, dtype, shape: placed.shape, read: async () => bytes });
      }
    }
  return tensors;
}

export async function makeAdapter(base: Checkpoint, over: Partial<ConstructorParameters<typeof Adapter>[0]> = {}): Promise<Adapter> {
  const { identity } = await hashCheckpoint(base);
  const tensors = await makeTensors(base);
  return new Adapter({
    method: { type: "esft", p: 0.2 },
    base: { name: "tiny", identity },
    experts,
    tensors,
    training: { steps: 20, loss: 1.5 },
    frozenDigest: await frozenDigest(base, tensors),
    ...over,
  });
}

export const placesIn = (a: Adapter) => [...a.tensors].map(([key, { role, layer, expert, part }]) => [key, role, layer, expert, part]);
