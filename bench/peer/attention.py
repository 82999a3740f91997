"""Causal scaled-dot-product attention, forward and backward (dQ, dK, dV)."""
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from .harness import DTYPES, Case, Timed

# qk dim, v dim, S, batch, heads. On the CPU always 4096 tokens of 4 heads.
SHAPES = {"cpu": ((64, 64, 512, 8, 4), (64, 64, 2048, 2, 4), (128, 128, 512, 8, 4), (128, 128, 2048, 2, 4)),
          "cuda": ((64, 64, 4096, 2, 32), (128, 128, 4096, 2, 16), (192, 128, 4096, 2, 16))}
CUDA_BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION,
                 "efficient": SDPBackend.EFFICIENT_ATTENTION}


def attention_flops(qk, v, seq, heads):
    """Causal: half of S² for the scores and for the values; the backward has 2.5 times as much (dV, dP, S again, dQ, dK)."""
    forward = 1.0 * seq * seq * (qk + v) * heads
    return {"fwd": forward, "bwd": 1.0 * seq * seq * (3 * qk + 2 * v) * heads}


def backend(name):
    return sdpa_kernel(CUDA_BACKENDS[name]) if name in CUDA_BACKENDS else nullcontext()


def cases(env):
    variants = ("sdpa", *CUDA_BACKENDS) if env.device == "cuda" else ("sdpa",)
    for qk, v, seq, batch, heads in SHAPES[env.device]:
        config = f"hd{qk}-S{seq}" if qk == v else f"hd{qk}v{v}-S{seq}"
        flops = attention_flops(qk, v, seq, batch * heads)
        for dtype in DTYPES:
            for mode in ("fwd", "bwd"):
                for variant in variants:
                    def make(env, qk=qk, v=v, seq=seq, batch=batch, heads=heads, dtype=DTYPES[dtype], mode=mode,
                             variant=variant):
                        q, k = (env.randn(batch, heads, seq, qk, dtype=dtype, salt=s) for s in (1, 2))
                        val, d_o = (env.randn(batch, heads, seq, v, dtype=dtype, salt=s) for s in (3, 4))
                        sdpa = lambda q, k, val: F.scaled_dot_product_attention(q, k, val, is_causal=True)
                        if mode == "fwd":
                            def forward():
                                with backend(variant), torch.no_grad():
                                    return sdpa(q, k, val)
                            return Timed(forward, lambda: [forward()])
                        inputs = [t.requires_grad_() for t in (q, k, val)]
                        with backend(variant):
                            o = sdpa(*inputs)
                        backward = lambda: torch.autograd.grad(o, inputs, d_o, retain_graph=True)
                        return Timed(backward, lambda: list(backward()))

                    yield Case("attention", config, dtype, mode, variant, flops[mode], make, tokens=batch * seq,
                               shape={"qk": qk, "v": v, "S": seq, "B": batch, "H": heads})
