// A base of a few thousand parameters, and an adapter of every method for it.

import { Adapter } from "../../../lib/adapter/adapter.ts";
import { frozenDigest } from "../../../lib/adapter/digest.ts";
import { parameterTensor } from "../../../lib/adapter/tensors.ts";
import type { AttachedTensor } from "../../../lib/adapter/tensors.ts";
import { ExpertSet } from "../../../lib/experts/expert_set.ts";
import type { Checkpoint } from "../../../lib/files/checkpoint.ts";
import { openCheckpoint } from "../../../lib/files/checkpoint.ts";
import { encodeFloats } from "../../../lib/files/floats.ts";
import { hashCheckpoint } from "../../../lib/files/hash.ts";
import { sliceKey } from "../../../lib/files/slice.ts";
import { esftTrainable } from "../../../lib/methods/esft.ts";
import { loraTrainable } from "../../../lib/methods/lora.ts";
import { withCondensers } from "../../../lib/methods/condenser.ts";
import { withRouter } from "../../../lib/methods/router_mode.ts";
import type { TrainableSpec } from "../../../lib/methods/method.ts";
import { checkpointSpec } from "../../../lib/model/families/index.ts";
import { parameterShapes } from "../../../lib/model/spec.ts";
import { tinyDeepseek, writeTinyModel } from "../../support/tiny_model.ts";

const config = {
  ...tinyDeepseek,
  hidden_size: 8, intermediate_size: 8, moe_intermediate_size: 4, num_hidden_layers: 2, num_attention_heads: 1, num_key_value_heads: 1, qk_nope_head_dim: 4,
  qk_rope_head_dim: 4, v_head_dim: 4, kv_lora_rank: 4, n_routed_experts: 3, num_experts_per_tok: 1, vocab_size: 8,
}; // prettier-ignore

export async function adapterBase(dir: string): Promise<Checkpoint> {
  await writeTinyModel(dir, config, { tokenizer: false });
  return openCheckpoint(dir);
}

/** ESFT on experts, on everything; LoRA on attention and on all that is linear; ESFT with routers that train or have a term. */
export async function adapters(base: Checkpoint): Promise<Adapter[]> {
  const spec = checkpointSpec(base);
  const set = (switches: object) =>
    new ExpertSet({ layers: [[1, { ranked: [2, 0], scores: [0.5, 0.25] }]], rule: { p: 0.2 }, base: "ab", ...switches });
  const methods = [
    esftTrainable(spec, set({})),
    esftTrainable(spec, set({ sharedExperts: true, nonExpertModules: true })),
    loraTrainable(spec, { rank: 1, alpha: 2, targets: ["attention"] }, 1),
    loraTrainable(spec, { rank: 2, alpha: 3.5, targets: ["linear", "router"] }, 1),
    withRouter(spec, esftTrainable(spec, set({})), { router: "lora", routerRank: 1 }, 1),
    withCondensers(spec, withRouter(spec, esftTrainable(spec, set({})), { router: "train" }, 1), { condensers: 1 }, true),
  ];
  return Promise.all(methods.map((method) => adapterOf(base, method)));
}

async function adapterOf(base: Checkpoint, method: TrainableSpec): Promise<Adapter> {
  const places = parameterShapes(checkpointSpec(base)).filter((p) => method.keys.includes(sliceKey(p.ref)));
  const values = (shape: readonly number[], seed: number) => async (): Promise<Uint8Array> =>
    encodeFloats(
      Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => Math.sin(seed + i)),
      "F32",
    );
  const tensors = places.map((p, i) => parameterTensor(p, { dtype: "F32", read: values(p.shape, i) }));
  const attached = (method.attachments?.parameters ?? []).map(({ key, shape, place, target }, i): AttachedTensor => ({
    name: key,
    layer: place.layer,
    target,
    dtype: "F32",
    shape,
    read: values(shape, i),
  }));
  return new Adapter({
    method: { type: method.type, ...method.options },
    base: { name: "tiny", identity: (await hashCheckpoint(base)).identity },
    experts: method.experts,
    tensors,
    attached,
    training: { step: 3, loss: 1.5 },
    profile: { name: "law" },
    frozenDigest: await frozenDigest(base, tensors),
    createdBy: "esft test",
  });
}
