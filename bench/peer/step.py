"""Whole training steps of random-weight transformers models: forward, mean loss over all tokens, backward, fused AdamW.

Modes: esft (n of E experts per layer, nothing else), full (every parameter), forward (the model without its head, no
gradients, as in profiling). No gradient clipping in anyone's time. bf16 = weights, gradients and moments all bf16.
"""
import torch
import torch.nn.functional as F

from .experts import HandExperts, LoopExperts
from .case import DTYPES, Variant

# What bench/cases/step.ts leaves to the defaults of a model without a tokenizer.
TOKENS = dict(bos_token_id=None, eos_token_id=None, pad_token_id=None, use_cache=False)


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
def build_model(env, arguments, dtype, experts):
    from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM

    AttentionInterface.register("peer_padded", padded_sdpa)
    config = AutoConfig.for_model(**arguments, **TOKENS)
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
    def __init__(self, env, case, variant):
        dtype, mode = DTYPES[case.dtype], case.mode
        arguments, batch, seq, trained = (case.sizes[k] for k in ("config", "batch", "seq", "trained"))
        kind, *options = variant.split("-")
        implementation = {"eager": "eager", "grouped": "grouped_mm"}.get(options[0] if options else "", "eager")
        model = build_model(env, arguments, dtype, implementation if kind == "hf" else "eager")
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


def variants(case, env):
    products = ("mm", "dnn") if env.suite == "cpu" else ("mm", "grouped")
    hand = [f"hand-{p}{c}" for p in products for c in ("", "-compile")]
    for name in ("hf-eager", "hf-grouped", "hf-grouped-compile", "loop", *hand):
        yield Variant(case, name, lambda env, name=name: Step(env, case, name))
