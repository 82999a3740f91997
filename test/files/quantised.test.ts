// Which stored tensors make a weight, and what is refused: by file, tensor, what was expected and found.

import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { ConfigError, LayoutError } from "../../lib/errors.ts";
import { findWeights } from "../../lib/files/quantised/index.ts";
import type { WeightInfo } from "../../lib/files/quantised/packed.ts";
import type { TensorInfo } from "../../lib/files/safetensors.ts";
import { openSafetensors, tensorBytes } from "../../lib/files/safetensors.ts";

const root = "test/fixtures/quantised";
type Json = Record<string, unknown>;
type Change = (tensors: Map<string, TensorInfo>, config: Json) => void;

async function find(name: string, change: Change = () => undefined): Promise<Map<string, WeightInfo>> {
  const file = await openSafetensors(`${root}/${name}.safetensors`);
  const tensors = new Map([...file.tensors].filter(([t]) => !t.startsWith("expected.")));
  const config = JSON.parse(readFileSync(`${root}/${name}.json`, "utf8")) as { quantization_config: Json };
  change(tensors, config.quantization_config);
  return findWeights(config, "config.json", tensors, [file]);
}
/** Tensors whose names end so. */
const ending = (tensors: Map<string, TensorInfo>, end: string): TensorInfo[] => [...tensors.values()].filter((t) => t.name.endsWith(end));
const drop = (end: string): Change => (tensors) => ending(tensors, end).forEach((t) => tensors.delete(t.name)); // prettier-ignore
/** Another dtype or shape, with as many bytes as it has. */
const alter = (end: string, change: Partial<Pick<TensorInfo, "dtype" | "shape">>): Change => (tensors) => {
  for (const t of ending(tensors, end)) {
    const now = { ...t, ...change };
    tensors.set(t.name, { ...now, end: t.begin + tensorBytes(now.dtype, now.shape)! });
  }
}; // prettier-ignore
const config = (key: string, value: unknown): Change => (_, c) => void (c[key] = value); // prettier-ignore
const weightsOf = (change: Json): Change => (_, c) => {
  const groups = c["config_groups"] as { group_0: { weights: Json } };
  Object.assign(groups.group_0.weights, change);
}; // prettier-ignore

describe("weights are found by the tensors that are there", () => {
  it.each([
    ["bnb-nf4", "model.layers.1.self_attn.o_proj.weight", [36, 128], "bitsandbytes nf4, block 128", "BF16"],
    [
      "bnb-nf4-double",
      "model.layers.0.mlp.experts.3.down_proj.weight",
      [40, 24],
      "bitsandbytes nf4, block 64, scales quantised too",
      "F32",
    ],
    ["bnb-int8", "model.layers.1.self_attn.q_proj.weight", [7, 33], "bitsandbytes int8, a scale for each row", "F32"],
    ["ct-int4-g32-g-idx", "model.layers.1.self_attn.q_proj.weight", [7, 160], "int4, groups of 32, columns in groups by g_idx", "BF16"],
    ["ct-int8-channel-packed", "model.layers.1.self_attn.q_proj.weight", [7, 33], "int8, a scale for each row, zero points", "BF16"],
    ["ct-fp8-channel-f32", "model.layers.1.self_attn.q_proj.weight", [7, 33], "FP8, a scale for each row", "F32"],
    ["ct-fp8-tensor", "model.layers.1.self_attn.q_proj.weight", [7, 33], "FP8, one scale", "BF16"],
    ["ct-fp8-block", "model.layers.0.mlp.experts.3.up_proj.weight", [128, 136], "FP8, blocks 128 × 128", "BF16"],
    ["ct-nvfp4", "model.layers.1.self_attn.q_proj.weight", [7, 48], "NVFP4, groups of 16", "BF16"],
    ["fp8-fused", "model.layers.0.mlp.experts.gate_up_proj", [3, 32, 48], "FP8, blocks 16 × 16", "F32"],
    ["fp8-per-tensor", "model.layers.1.self_attn.q_proj.weight", [7, 33], "FP8, one scale", "F32"],
    ["fp4-experts", "model.layers.0.mlp.experts.3.up_proj.weight", [24, 96], "FP4, block 32", "BF16"],
    ["mxfp4-extremes", "model.layers.0.mlp.experts.gate_up_proj", [3, 96, 64], "MXFP4, block 32, transposed", "BF16"],
  ])("%s: %s", async (name, weight, shape, scheme, held) => {
    const weights = await find(name);
    const found = weights.get(weight)!;
    expect([found.shape, found.dtype, found.packed?.scheme, found.packed?.held]).toEqual([shape, "BF16", scheme, held]);
    // Nothing of the quantiser's is left over as a weight.
    expect(
      [...weights.values()].filter((w) => !w.packed && /scale|absmax|quant_|SCB|blocks|packed|zero|g_idx|weight_/.test(w.name)),
    ).toEqual([]);
  });

  it("what is not quantised stays as it is", async () => {
    const weights = await find("fp8-qwen3");
    expect(weights.get("lm_head.weight")).toMatchObject({ dtype: "BF16", shape: [11, 24], packed: null });
  });

  it("without quantization_config every tensor is a weight", async () => {
    const file = await openSafetensors(`${root}/ct-nvfp4.safetensors`);
    const weights = await findWeights({}, "config.json", file.tensors, [file]);
    expect([...weights.keys()]).toEqual([...file.tensors.keys()]);
  });

  it("scales of a cache are left out where config.json has some", async () => {
    const add: Change = (tensors) => {
      const [scale] = ending(tensors, "q_proj.weight_scale");
      const name = scale!.name.replace("q_proj.weight_scale", "k_scale");
      tensors.set(name, { ...scale!, name });
    };
    const both: Change = (tensors, c) => (add(tensors, c), void (c["kv_cache_scheme"] = { num_bits: 8 }));
    const scales = async (change: Change): Promise<number> => [...(await find("ct-fp8-channel-f32", change)).keys()].filter((n) => n.endsWith("k_scale")).length; // prettier-ignore
    expect([await scales(add), await scales(both)]).toEqual([1, 0]);
  });

  it("of a text model inside another, too", async () => {
    const file = await openSafetensors(`${root}/fp8-per-tensor.safetensors`);
    const tensors = new Map([...file.tensors].filter(([t]) => !t.startsWith("expected.")));
    const inner = { text_config: { quantization_config: { quant_method: "fp8", weight_block_size: null } } };
    expect((await findWeights(inner, "config.json", tensors, [file])).size).toBe(2);
  });
});

describe("what cannot be read is refused", () => {
  it.each<[string, Change, RegExp]>([
    ["bnb-nf4", drop(".absmax"), /safetensors: tensor ".*weight": expected ".*weight.absmax" beside it, found no such tensor/],
    ["bnb-nf4", alter(".quant_map", { shape: [15] }), /tensor ".*quant_map": expected F32 \[16\], found F32 \[15\]/],
    ["bnb-nf4", alter(".absmax", { shape: [1] }), /tensor ".*absmax": expected F32 \[\d+\], found F32 \[1\]/],
    ["bnb-nf4", alter("q_proj.weight", { shape: [3, 1] }), /expected 116 bytes for a weight \[7, 33\], two codes a byte, found 3/],
    ["bnb-nf4", alter("bitsandbytes__nf4", { shape: [7] }), /expected valid JSON, found: /],
    ["bnb-nf4", alter("bitsandbytes__nf4", { dtype: "I8" }), /expected at most 65536 bytes of JSON as U8/],
    ["bnb-nf4-double", drop(".nested_absmax"), /expected ".*nested_absmax" beside it/],
    ["bnb-int8", alter(".SCB", { shape: [1] }), /tensor ".*SCB": expected F32 \[\d+\], found F32 \[1\]/],
    ["bnb-int8", alter("proj.weight", { dtype: "U8" }), /expected I8 \[\d+, \d+\], found U8/],
    ["ct-int4-g32-asym", drop(".weight_shape"), /expected ".*weight_shape" beside it/],
    ["ct-int4-g32-asym", weightsOf({ num_bits: 8 }), /a weight \[\d+, \d+\]: expected \[.*\] for 8 bits, found/],
    ["ct-int4-g32-asym", weightsOf({ group_size: 16 }), /a weight \[24, 96\]: expected .*\[24, 6\] \(groups of 16\), found BF16 \[24, 3\]/],
    ["ct-int4-g32-asym", alter(".weight_zero_point", { shape: [1, 1] }), /tensor ".*weight_zero_point": expected I32, I8 \[\d+, \d\], found I32 \[1, 1\]/],
    ["ct-int4-g32-g-idx", alter(".weight_g_idx", { shape: [3] }), /tensor ".*weight_g_idx": expected I32 \[\d+\], found I32 \[3\]/],
    ["ct-int8-channel", alter(".weight_scale", { dtype: "I32", shape: [1] }), /expected F32, BF16, F16, found I32 \[1\]/],
    ["ct-nvfp4", alter(".weight_scale", { shape: [7, 2] }), /expected F8_E4M3, U8 \[\d+, \d\], found F8_E4M3 \[7, 2\]/],
    ["ct-nvfp4", drop(".weight_scale"), /expected ".*weight_scale" beside it/],
    ["fp8-qwen3", drop("up_proj.weight_scale_inv"), /expected its scales beside it, found none: ".*up_proj.weight_scale_inv" or ".*up_proj.scale"/],
    ["fp8-qwen3", config("weight_block_size", [64, 64]), /expected F32, BF16, F16, F8_E8M0, U8 \[\d, \d\], found/],
    ["mxfp4-extremes", drop("_scales"), /expected ".*_scales" beside it/],
    ["mxfp4-extremes", alter("_blocks", { shape: [3, 64, 3, 15] }), /expected U8 \[3, 64, 3, 16\], found U8 \[3, 64, 3, 15\]/],
  ])("%s, case %#", async (name, change, message) => {
    await expect(find(name, change)).rejects.toThrow(message);
    await expect(find(name, change)).rejects.toThrow(LayoutError);
  }); // prettier-ignore

  it.each<[string, Change, RegExp]>([
    ["fp8-qwen3", config("quant_method", "awq"), /config.json: "quantization_config.quant_method": expected one of bitsandbytes, compressed-tensors, fp8, mxfp4, found "awq"/],
    ["fp8-qwen3", config("quant_method", undefined), /quant_method": expected one of .*, found null/],
    ["fp8-qwen3", config("weight_block_size", [128]), /weight_block_size": expected \[rows, cols\] or null, found \[128\]/],
    ["ct-nvfp4", config("format", "marlin-24"), /"quantization_config.format": expected one of .*, found "marlin-24"/],
    ["ct-nvfp4", config("sparsity_config", { format: "sparse-24-bitmask" }), /"quantization_config.sparsity_config.format": expected "dense"/],
    ["ct-nvfp4", config("transform_config", { config_groups: { a: {} } }), /transform_config": expected no transforms of weights/],
    ["ct-nvfp4", config("config_groups", 3), /config.json: quantization_config: config_groups: /],
    ["ct-int4-channel", weightsOf({ num_bits: 3 }), /num_bits": expected 4 or 8 bits of int, found 3/],
  ])("%s, config %#", async (name, change, message) => {
    await expect(find(name, change)).rejects.toThrow(message);
    await expect(find(name, change)).rejects.toThrow(ConfigError);
  }); // prettier-ignore
});
