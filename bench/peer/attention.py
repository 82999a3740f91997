"""Causal scaled-dot-product attention, forward and backward (dQ, dK, dV)."""
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from .gpu import shapes
from .harness import DTYPES, Case, Timed

# qk dim, v dim, S, batch, heads: always 4096 tokens of 4 heads.
CPU_SHAPES = ((64, 64, 512, 8, 4), (64, 64, 2048, 2, 4), (128, 128, 512, 8, 4), (128, 128, 2048, 2, 4))
CUDA_BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION,
                 "efficient": SDPBackend.EFFICIENT_ATTENTION}


def attention_flops(qk, v, seq, heads):
    """Causal: half of S² for the scores and for the values; the backward has 2.5 times as much (dV, dP, S again, dQ, dK)."""
    forward = 1.0 * seq * seq * (qk + v) * heads
    return {"fwd": forward, "bwd": 1.0 * seq * seq * (3 * qk + 2 * v) * heads}


def shapes_of(env):
    if env.suite == "cpu":
        return CPU_SHAPES
    a = shapes(env.tiny)["attention"]
    return tuple((qk, v, a["S"], a["B"], a["heads"]) for qk, v in a["dims"])


def backend(name):
    return sdpa_kernel(CUDA_BACKENDS[name]) if name in CUDA_BACKENDS else nullcontext()


def cases(env):
    for qk, v, seq, batch, heads in shapes_of(env):
        variants = ("sdpa", *CUDA_BACKENDS) if env.suite == "cuda" else ("sdpa",)
        if env.suite == "cuda" and qk != v:  # those that refuse unequal widths, with V padded to the width of Q and K
            variants += tuple(f"{name}-padded" for name in CUDA_BACKENDS)
        config = f"hd{qk}-S{seq}" if qk == v else f"hd{qk}v{v}-S{seq}"
        flops = attention_flops(qk, v, seq, batch * heads)
        for dtype in DTYPES:
            for mode in ("fwd", "bwd"):
                for variant in variants:
                    def make(env, qk=qk, v=v, seq=seq, batch=batch, heads=heads, dtype=DTYPES[dtype], mode=mode,
                             variant=variant):
                        q, k = (env.randn(batch, heads, seq, qk, dtype=dtype, salt=s) for s in (1, 2))
                        val, d_o = (env.randn(batch, heads, seq, v, dtype=dtype, salt=s) for s in (3, 4))
                        name, *padded = variant.split("-")

                        def sdpa(q, k, val):
                            if padded:
                                val = F.pad(val, (0, qk - v))
                            o = F.scaled_dot_product_attention(q, k, val, is_causal=True)
                            return o[..., :v] if padded else o

                        if mode == "fwd":
                            def forward():
                                with backend(name), torch.no_grad():
                                    return sdpa(q, k, val)
                            return Timed(forward, lambda: [forward()])
                        inputs = [t.requires_grad_() for t in (q, k, val)]
                        with backend(name):
                            o = sdpa(*inputs)
                        backward = lambda: torch.autograd.grad(o, inputs, d_o, retain_graph=True)
                        return Timed(backward, lambda: list(backward()))

                    yield Case("attention", config, dtype, mode, variant, flops[mode], make, tokens=batch * seq,
                               graph=env.suite == "cuda",
                               shape={"qk": qk, "v": v, "S": seq, "B": batch, "H": heads})
