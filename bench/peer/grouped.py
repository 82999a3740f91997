"""The products of a MoE layer alone, rows gathered and sorted beforehand: torch.nn.functional.grouped_mm, and the cuBLAS loop over
experts with offsets that the host knows. Neither gathers, activates or forms gate gradients; ours does that in the same time."""
import torch
import torch.nn.functional as F

from .case import DTYPES, rotating
from .routing import make_route, row_counts


class Products:
    def __init__(self, env, sizes, dtype, mode, variant):
        D, width, E, K, T, trained = (sizes[k] for k in ("D", "F", "E", "K", "T", "trained"))
        counts = row_counts(make_route(env, sizes["routing"], T, E, K, dtype), E)
        self.experts = trained if mode.endswith("esft") else E  # hottest first (routing.py)
        self.ends = counts.cumsum(0).tolist()
        self.offsets = counts.cumsum(0).to(torch.int32).to(env.device)
        N = T * K
        self.rows = self.ends[self.experts - 1]
        # Of a product y = x·Wᵀ per expert: columns of x, columns of y.
        inner, outer = (D, 2 * width) if "up" in mode else (width, D)
        self.x = env.randn(N, inner, dtype=dtype, salt=1)
        self.dy = env.randn(N, outer, dtype=dtype, salt=2)
        self.w = None if mode.startswith("dw") else env.randn(E, outer, inner, dtype=dtype, scale=inner**-0.5, salt=3)
        loop = variant == "loop-mm"
        kind = "tn" if mode.startswith("dw") else "nn" if mode.endswith("bwd") else "nt"
        self.call = getattr(self, f"{kind}_{'loop' if loop else 'grouped'}")

    def spans(self):
        return zip(range(self.experts), [0, *self.ends[:-1]], self.ends)

    def nt_grouped(self):
        return F.grouped_mm(self.x, self.w.mT, offs=self.offsets)

    def nn_grouped(self):
        return F.grouped_mm(self.dy, self.w, offs=self.offsets)

    def tn_grouped(self):
        return F.grouped_mm(self.dy[: self.rows].t(), self.x[: self.rows], offs=self.offsets[: self.experts])

    def nt_loop(self):
        return self.loop(self.x, self.w.mT, self.w.shape[1])

    def nn_loop(self):
        return self.loop(self.dy, self.w, self.w.shape[2])

    def loop(self, x, w, columns):
        out = x.new_empty(x.shape[0], columns)
        for e, s, t in self.spans():
            if s < t:
                torch.mm(x[s:t], w[e], out=out[s:t])
        return out

    def tn_loop(self):
        out = self.x.new_empty(self.experts, self.dy.shape[1], self.x.shape[1])
        for e, s, t in self.spans():
            torch.mm(self.dy[s:t].t(), self.x[s:t], out=out[e])
        return out

    def run(self):
        with torch.no_grad():
            return self.call()

    def outputs(self):
        return [self.run()]


def variants(case, env):
    for name in ("grouped-mm", "loop-mm"):
        yield rotating(case, name, lambda env, name=name: Products(env, case.sizes, DTYPES[case.dtype], case.mode, name))
