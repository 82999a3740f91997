"""The gated delta rule of transformers in plain torch: its chunked form, forward and backward (dq, dk, dv, dbeta, dg)."""
import torch
from transformers.models.qwen3_next.modeling_qwen3_next import torch_chunk_gated_delta_rule

from .case import DTYPES, Timed, Variant, no_grad


def variants(case, env):
    tokens, key_heads, group, dim = (case.sizes[name] for name in ("T", "heads", "group", "dim"))
    heads = key_heads * group

    def make(env, compiled):
        dtype = DTYPES[case.dtype]
        q, k = (env.randn(1, tokens, key_heads, dim, dtype=dtype, salt=s) for s in (1, 2))
        v, d_o = (env.randn(1, tokens, heads, dim, dtype=dtype, salt=s) for s in (3, 4))
        g = -env.randn(1, tokens, heads, salt=5).abs() * 0.1
        beta = env.randn(1, tokens, heads, salt=6).sigmoid()

        def rule(q, k, v, g, beta):
            q, k = (t.repeat_interleave(group, dim=2) for t in (q, k))
            return torch_chunk_gated_delta_rule(q, k, v, g=g, beta=beta, use_qk_l2norm_in_kernel=True)[0]

        run = torch.compile(rule) if compiled else rule
        inputs = (q, k, v, g, beta)
        if case.mode == "fwd":
            return no_grad(run, *inputs)
        inputs = [t.requires_grad_() for t in inputs]
        out = run(*inputs)
        backward = lambda: torch.autograd.grad(out, inputs, d_o, retain_graph=True)
        return Timed(backward, lambda: list(backward()))

    yield Variant(case, "chunk", lambda env: make(env, False))
    yield Variant(case, "chunk-compile", lambda env: make(env, True))
