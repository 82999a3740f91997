"""Whole training steps of random-weight transformers models: forward, mean loss over all tokens, backward, fused AdamW.

Modes: esft (n of E experts per layer, nothing else), full (every parameter), forward (the model without its head, no
gradients, as in profiling). No gradient clipping in anyone's time. bf16 = weights, gradients and moments all bf16.
"""
import torch
import torch.nn.functional as F

from .attention import attention_flops
from .experts import HandExperts, LoopExperts
from .gpu import shapes as gpu_shapes
from .harness import DTYPES, Case

SMALL = dict(vocab_size=8192, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=4,
             num_experts_per_tok=4, max_position_embeddings=2048, bos_token_id=None, eos_token_id=None, pad_token_id=None,
             use_cache=False)
# config class, its arguments, batch, sequence, trained experts per layer
CPU_SHAPES = {
    "olmoe": ("OlmoeConfig", dict(SMALL, intermediate_size=128, num_experts=32), 8, 512, 5),
    "deepseek-v2": ("DeepseekV2Config", dict(
        SMALL, intermediate_size=512, moe_intermediate_size=128, n_routed_experts=32, n_shared_experts=1,
        first_k_dense_replace=0, q_lora_rank=None, kv_lora_rank=128, qk_nope_head_dim=64, qk_rope_head_dim=32,
        v_head_dim=64, topk_method="greedy"), 8, 512, 5),
}


def shapes_of(env):
    if env.suite == "cpu":
        return CPU_SHAPES
    step = gpu_shapes(env.tiny)["step"]
    arguments = dict(SMALL, topk_method="greedy", norm_topk_prob=False) | step["config"]
    return {step["name"]: ("DeepseekV2Config", arguments, step["batch"], step["seq"], step["trained"])}


def padded_sdpa(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **_):
    """SDPA with V padded to the width of Q and K: torch's fused CPU and flash kernels refuse unequal widths (MLA)."""
    width = value.shape[-1]
    value = F.pad(value, (0, query.shape[-1] - width))
    o = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, is_causal=attention_mask is None,
                                       scale=scaling)
    return o[..., :width].transpose(1, 2).contiguous(), None


# --- f32 linears through oneDNN: on CPUs that are not Intel's, torch's own f32 path (MKL) runs at half speed ----------
@torch.library.custom_op("peer::dnn_product", mutates_args=())
def dnn_product(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, w, None, "none", [], "")


@dnn_product.register_fake
def _(x, w):
    return x.new_empty(*x.shape[:-1], w.shape[0])


def product_context(ctx, inputs, output):
    x, w = inputs
    ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, w if ctx.needs_input_grad[0] else None)


def product_backward(ctx, dy):
    x, w = ctx.saved_tensors
    flat = lambda t: t.reshape(-1, t.shape[-1])
    dx = dnn_product(dy, w.t()) if ctx.needs_input_grad[0] else None
    return dx, dnn_product(flat(dy).t(), flat(x).t()) if ctx.needs_input_grad[1] else None


dnn_product.register_autograd(product_backward, setup_context=product_context)


class DnnLinear(torch.nn.Module):
    def __init__(self, linear):
        super().__init__()
        self.weight = linear.weight

    def forward(self, x):
        return dnn_product(x, self.weight)


# --- models ----------------------------------------------------------------------------------------------------------
def build_model(env, config_class, arguments, dtype, experts):
    import transformers
    from transformers import AttentionInterface, AutoModelForCausalLM

    AttentionInterface.register("peer_padded", padded_sdpa)
    config = getattr(transformers, config_class)(**arguments)
    torch.manual_seed(env.seed)
    with torch.device(env.device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa",
                                                 experts_implementation=experts)
    return model


def moe_blocks(model):
    return [layer.mlp for layer in model.model.layers if hasattr(layer.mlp, "experts")]


def replace_linears(module):
    for name, child in module.named_children():
        if type(child) is torch.nn.Linear:
            setattr(module, name, DnnLinear(child))
        else:
            replace_linears(child)


def zero_frozen(p, n):
    p.grad[n:].zero_()


@torch.no_grad()
def hottest_first(model, blocks, ids):
    """Renumbers the experts of every layer by their rows on this batch, most first: the trained ones are then 0..n-1, and they are
    those that a profile selects. The model computes the same. Returns the share of rows that each number of experts meets."""
    seen = []
    hooks = [block.experts.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1])) for block in blocks]
    model.model(input_ids=ids)
    for hook in hooks:
        hook.remove()
    E = blocks[0].experts.num_experts
    shares = torch.zeros(E)
    for block, index_TK in zip(blocks, seen, strict=True):
        rows = torch.bincount(index_TK.flatten(), minlength=E)
        rows, order = torch.sort(rows, descending=True, stable=True)
        for w in (block.experts.gate_up_proj, block.experts.down_proj, block.gate.weight):
            w.copy_(w[order])
        shares += (rows.cumsum(0) / rows.sum()).cpu() / len(blocks)
    return shares


class Step:
    def __init__(self, env, spec, dtype, mode, variant):
        config_class, arguments, batch, seq, trained = spec
        kind, *options = variant.split("-")
        implementation = {"eager": "eager", "grouped": "grouped_mm"}.get(options[0] if options else "", "eager")
        model = build_model(env, config_class, arguments, dtype, implementation if kind == "hf" else "eager")
        model.train(mode != "forward")
        model.requires_grad_(mode == "full")
        self.blocks = moe_blocks(model)
        self.E = self.blocks[0].experts.num_experts
        n = {"esft": trained, "full": self.E}.get(mode, 0)
        self.ids = torch.randint(arguments["vocab_size"], (batch, seq), generator=env.generator(7)).to(env.device)
        if env.suite == "cuda" and mode == "esft":
            self.facts = {"trainedRowShare": hottest_first(model, self.blocks, self.ids)[n - 1].item()}
        for block in self.blocks:
            self.set_experts(block, kind, options, n, mode)
        if kind == "hand":
            model.set_attn_implementation("peer_padded")
            if options[0] == "dnn" and dtype == torch.float32:
                replace_linears(model)
        self.model, self.mode, self.n = model, mode, n
        run = self.forward if mode == "forward" else self.loss
        self.call = torch.compile(run, dynamic=False) if "compile" in options else run
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = None if mode == "forward" else torch.optim.AdamW(
            self.parameters, lr=1e-4, weight_decay=0.0, fused=True)

    @staticmethod
    def set_experts(block, kind, options, n, mode):
        experts = block.experts
        if kind == "hf":
            for p in (experts.gate_up_proj, experts.down_proj):
                p.requires_grad_(n > 0)
                if mode == "esft":  # a fused parameter can only be frozen in part by masking its gradient
                    p.register_post_accumulate_grad_hook(lambda p: zero_frozen(p, n))
        elif kind == "loop":
            block.experts = LoopExperts(experts.gate_up_proj, experts.down_proj, n)
        else:
            block.experts = HandExperts(experts.gate_up_proj, experts.down_proj, n, options[0], "compile" in options)

    def __del__(self):
        for block in getattr(self, "blocks", []):
            if hasattr(block.experts, "close"):
                block.experts.close()

    def forward(self):
        return self.model.model(input_ids=self.ids).last_hidden_state

    def loss(self):
        return self.model(input_ids=self.ids, labels=self.ids).loss

    def run(self):
        if self.mode == "forward":
            with torch.no_grad():
                return self.call()
        loss = self.call()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss

    def outputs(self):
        """The hidden states, or the loss and the gradients of the trained experts in the first and the last layer."""
        if self.mode == "forward":
            return [self.run()]
        loss = self.call()
        loss.backward()
        grads = [g for block in (self.blocks[0], self.blocks[-1]) for g in self.expert_grads(block.experts)]
        if self.mode == "full":
            grads.append(self.model.get_input_embeddings().weight.grad)
        return [loss, *grads]

    def expert_grads(self, experts):
        if isinstance(experts, LoopExperts):
            gate, up, down = (torch.stack([w[i].grad for w in experts.weights[: self.n]]) for i in range(3))
            return torch.cat((gate, up), 1), down
        if isinstance(experts, HandExperts):
            return experts.gate_up_trained.grad, experts.down_trained.grad
        return experts.gate_up_proj.grad[: self.n], experts.down_proj.grad[: self.n]


# --- useful flops ----------------------------------------------------------------------------------------------------
def step_flops(config_class, a, batch, seq, trained):
    """Products only, per step: forward 1, dX 1, dW 1 where trained; ESFT has no backward below the first MoE layer."""
    T, D, V, L = batch * seq, a["hidden_size"], a["vocab_size"], a["num_hidden_layers"]
    heads, K = a["num_attention_heads"], a["num_experts_per_tok"]
    if config_class == "OlmoeConfig":
        E, Fe, qk = a["num_experts"], a["intermediate_size"], D // heads
        v, projections, shared, dense = qk, 4 * D * D, 0, 0
    else:
        E, Fe, qk = a["n_routed_experts"], a["moe_intermediate_size"], a["qk_nope_head_dim"] + a["qk_rope_head_dim"]
        v, lora = a["v_head_dim"], a["kv_lora_rank"]
        projections = (D * heads * qk + D * (lora + a["qk_rope_head_dim"])
                       + lora * heads * (a["qk_nope_head_dim"] + v) + heads * v * D)
        shared, dense = 3 * D * Fe * a["n_shared_experts"], a["first_k_dense_replace"]
    attention = attention_flops(qk, v, seq, batch * heads)
    routed, moe = 2.0 * T * K * 3 * D * Fe, L - dense
    project, mixed = 2.0 * T * projections, 2.0 * T * (E * D + shared)
    first = 2.0 * T * 3 * D * a["intermediate_size"] * dense
    forward = L * (project + attention["fwd"]) + moe * (routed + mixed) + first
    head = 2.0 * T * D * V
    above = moe - 1  # MoE layers whose input needs a gradient
    esft = (forward + 2 * head + above * (project + attention["bwd"] + mixed + routed)
            + trained / E * routed * (moe + 1))  # dW of every layer, and da of the first
    full = 3 * forward + 3 * head + L * (attention["bwd"] - 2 * attention["fwd"])
    return {"forward": forward, "esft": esft, "full": full}


def cases(env):
    products = ("mm", "dnn") if env.suite == "cpu" else ("mm", "grouped")
    hand = [f"hand-{p}{c}" for p in products for c in ("", "-compile")]
    for config, spec in shapes_of(env).items():
        config_class, arguments, batch, seq, trained = spec
        flops = step_flops(*spec)
        for dtype in DTYPES:
            for mode in ("esft", "full", "forward"):
                if mode == "full" and env.suite == "cuda":
                    continue  # weights, gradients and moments of 15.7 B parameters do not fit one device
                for variant in ("hf-eager", "hf-grouped", "hf-grouped-compile", "loop", *hand):
                    def make(env, spec=spec, dtype=DTYPES[dtype], mode=mode, variant=variant):
                        return Step(env, spec, dtype, mode, variant)

                    yield Case("step", config, dtype, mode, variant, flops[mode], make, tokens=batch * seq,
                               shape={"config": config_class, **arguments, "batch": batch, "seq": seq,
                                      "trained": trained})
