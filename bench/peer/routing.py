"""Which K experts each token takes: the routings of test/ops/routes.ts, drawn by torch."""
import re
from dataclasses import dataclass
from math import gcd

import torch
from torch import Tensor


@dataclass
class Route:
    index_TK: Tensor
    gate_TK: Tensor


def popularity(kind, E):
    """log popularity of the experts, hottest first: fixed by quantiles, so that both sides have the same loads."""
    if kind == "uniform":
        return torch.zeros(E)
    sigma = float(re.fullmatch(r"lognormal(\d+(?:\.\d+)?)", kind)[1])
    return sigma * torch.special.ndtri(1 - (torch.arange(E) + 0.5) / E)


def spread(E):
    """Expert of each popularity rank where the hot ones do not come first, as ours are numbered."""
    step = max(1, round(E * 0.382))
    while gcd(step, E) != 1:
        step += 1
    return torch.arange(E) * step % E


def make_route(env, kind, T, E, K, dtype, salt=5):
    """uniform, balanced, lognormalSIGMA, extreme; the gates of a token sum to one. On cuda experts are numbered by popularity: the
    first ones are the hottest, which train. On the CPU the first ones train on both sides, whatever they meet."""
    generator = env.generator(salt)
    if kind == "balanced":
        index_TK = (torch.arange(T * K) % E).view(T, K)
    elif kind == "extreme":
        index_TK = torch.arange(K).expand(T, K).contiguous()
    else:
        gumbel_TE = -torch.log(-torch.log(torch.rand(T, E, generator=generator).clamp(1e-9, 1 - 1e-7)))
        index_TK = (gumbel_TE + popularity(kind, E)).topk(K, -1).indices
        if env.suite == "cpu":
            index_TK = spread(E)[index_TK]
    gate_TK = torch.softmax(torch.randn(T, K, generator=generator), -1)
    return Route(index_TK.to(env.device), gate_TK.to(dtype).to(env.device))


def row_counts(route, E):
    return torch.bincount(route.index_TK.flatten().cpu(), minlength=E)
