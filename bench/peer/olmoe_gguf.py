"""The random OLMoE-shaped checkpoint of bench/decode.ts as a GGUF file in bf16, for llama.cpp.

    python bench/peer/olmoe_gguf.py CHECKPOINT_DIR OUT.gguf        (pip install gguf numpy)

The vocabulary is made up: the peer is given token ids.
"""

import json
import struct
import sys
from pathlib import Path

import gguf
import numpy as np


class Checkpoint:
    """Tensors of a safetensors file as they lie, mapped."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as f:
            (size,) = struct.unpack("<Q", f.read(8))
            self.header = json.loads(f.read(size))
        self.bytes = np.memmap(path, np.uint8, "r", offset=8 + size)

    def bf16(self, name: str) -> np.ndarray:
        entry = self.header[name]
        assert entry["dtype"] == "BF16", (name, entry["dtype"])
        begin, end = entry["data_offsets"]
        return self.bytes[begin:end].view(np.uint16).reshape(entry["shape"])

    def f32(self, name: str) -> np.ndarray:
        return (self.bf16(name).astype(np.uint32) << 16).view(np.float32)


def main(source: Path, out: Path) -> None:
    config = json.loads((source / "config.json").read_text())
    weights = Checkpoint(source / "model.safetensors")
    writer = gguf.GGUFWriter(out, "olmoe", use_temp_file=False)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_expert_count(config["num_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("olmo")
    words = [f"t{i}" for i in range(config["vocab_size"])]
    words[1], words[2] = "<bos>", "<eos>"
    writer.add_token_list(words)
    writer.add_token_types([3 if i in (1, 2) else 1 for i in range(len(words))])
    writer.add_token_merges(["t 1"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)

    def add(name: str, array: np.ndarray) -> None:
        if array.dtype == np.float32:
            writer.add_tensor(name, array)
        else:
            writer.add_tensor(name, np.ascontiguousarray(array).view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)

    add("token_embd.weight", weights.bf16("model.embed_tokens.weight"))
    add("output.weight", weights.bf16("lm_head.weight"))
    add("output_norm.weight", weights.f32("model.norm.weight"))
    for layer in range(config["num_hidden_layers"]):
        ours, theirs = f"model.layers.{layer}.", f"blk.{layer}."
        for name, of in (("attn_q", "q_proj"), ("attn_k", "k_proj"), ("attn_v", "v_proj"), ("attn_output", "o_proj")):
            add(f"{theirs}{name}.weight", weights.bf16(f"{ours}self_attn.{of}.weight"))
        for name, of in (
            ("attn_q_norm", "self_attn.q_norm"),
            ("attn_k_norm", "self_attn.k_norm"),
            ("attn_norm", "input_layernorm"),
            ("ffn_norm", "post_attention_layernorm"),
        ):
            add(f"{theirs}{name}.weight", weights.f32(f"{ours}{of}.weight"))
        add(f"{theirs}ffn_gate_inp.weight", weights.f32(f"{ours}mlp.gate.weight"))
        for name, of in (("gate", "gate_proj"), ("up", "up_proj"), ("down", "down_proj")):
            experts = [weights.bf16(f"{ours}mlp.experts.{e}.{of}.weight") for e in range(config["num_experts"])]
            add(f"{theirs}ffn_{name}_exps.weight", np.stack(experts))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
