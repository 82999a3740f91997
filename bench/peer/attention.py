"""Causal scaled-dot-product attention, forward and backward (dQ, dK, dV)."""
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from .case import DTYPES, Timed, Variant

CUDA_BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION,
                 "efficient": SDPBackend.EFFICIENT_ATTENTION}


def backend(name):
    return sdpa_kernel(CUDA_BACKENDS[name]) if name in CUDA_BACKENDS else nullcontext()


def variants(case, env):
    qk, v, seq, batch, heads = (case.sizes[name] for name in ("qk", "v", "S", "B", "heads"))
    if case.sizes["window"] or case.sizes["sinks"] or case.sizes["group"] > 1:
        return  # scaled_dot_product_attention has no window and no sinks (a mask of its own is another kernel); groups are not compared
    names = ["sdpa", *(CUDA_BACKENDS if env.suite == "cuda" else ())]
    if env.suite == "cuda" and qk != v:  # those that refuse unequal widths, with V padded to the width of Q and K
        names += [f"{name}-padded" for name in CUDA_BACKENDS]
    for variant in names:
        def make(env, variant=variant):
            dtype = DTYPES[case.dtype]
            q, k = (env.randn(batch, heads, seq, qk, dtype=dtype, salt=s) for s in (1, 2))
            val, d_o = (env.randn(batch, heads, seq, v, dtype=dtype, salt=s) for s in (3, 4))
            name, *padded = variant.split("-")

            def sdpa(q, k, val):
                if padded:
                    val = F.pad(val, (0, qk - v))
                o = F.scaled_dot_product_attention(q, k, val, is_causal=True)
                return o[..., :v] if padded else o

            if case.mode == "fwd":
                def forward():
                    with backend(name), torch.no_grad():
                        return sdpa(q, k, val)
                return Timed(forward, lambda: [forward()])
            inputs = [t.requires_grad_() for t in (q, k, val)]
            with backend(name):
                o = sdpa(*inputs)
            backward = lambda: torch.autograd.grad(o, inputs, d_o, retain_graph=True)
            return Timed(backward, lambda: list(backward()))

        yield Variant(case, variant, make, graph=env.suite == "cuda")
