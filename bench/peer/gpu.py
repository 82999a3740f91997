"""What both sides run on a GPU: ../gpu/shapes.json, the routings, and contenders that rotate over several sets of buffers.

With --tiny the same contenders run on the CPU on shapes that prove every path and measure nothing.
"""
import functools
import json
import os
import re

import torch

from .experts import Route

CACHE_BYTES = 180e6  # three times the L2 of an H200
DTYPE = torch.bfloat16


@functools.cache
def shapes(tiny):
    path = os.path.join(os.path.dirname(__file__), "..", "gpu", "shapes.json")
    with open(path) as f:
        return json.load(f)["tiny" if tiny else "full"]


def popularity(kind, E):
    """log popularity of the experts, hottest first: fixed by quantiles, so that both sides have the same loads."""
    if kind == "uniform":
        return torch.zeros(E)
    sigma = float(re.fullmatch(r"lognormal(\d+(?:\.\d+)?)", kind)[1])
    return sigma * torch.special.ndtri(1 - (torch.arange(E) + 0.5) / E)


def gpu_route(env, kind, T, E, K, salt=5):
    """uniform, balanced, lognormalSIGMA, extreme (../gpu/routing.ts); the gates of a token sum to one."""
    generator = env.generator(salt)
    if kind == "balanced":
        index_TK = (torch.arange(T * K) % E).view(T, K)
    elif kind == "extreme":
        index_TK = torch.arange(K).expand(T, K).contiguous()
    else:
        gumbel_TE = -torch.log(-torch.log(torch.rand(T, E, generator=generator).clamp(1e-9, 1 - 1e-7)))
        index_TK = (gumbel_TE + popularity(kind, E)).topk(K, -1).indices
    gate_TK = torch.softmax(torch.randn(T, K, generator=generator), -1)
    return Route(index_TK.to(env.device), gate_TK.to(DTYPE).to(env.device))


def row_counts(route, E):
    return torch.bincount(route.index_TK.flatten().cpu(), minlength=E)


class Rotated:
    """A contender made several times; calls go round, so that the L2 cache holds nothing of the next one."""

    def __init__(self, env, make, bytes_of_one):
        sets = 1 if bytes_of_one > 2e9 else max(3, min(16, -(-int(CACHE_BYTES) // max(1, int(bytes_of_one)))))
        self.bodies = [make() for _ in range(1 if env.tiny else sets)]
        self.next = 0

    @property
    def runs(self):
        return [b.run for b in self.bodies]

    def run(self):
        self.next = (self.next + 1) % len(self.bodies)
        return self.bodies[self.next].run()

    def outputs(self):
        return self.bodies[0].outputs()
