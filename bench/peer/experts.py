"""Routed experts in PyTorch, as people write them and as fast as PyTorch allows.

Sizes: T tokens, D model, F expert, E experts, K experts per token, N = T·K assignments, H = 2F (gate | up).
The trained experts are always 0..n-1: then their parameters are views into the stacked weights, their rows are the first
ones after the sort, and nothing is copied.
"""
import functools
import itertools

import torch
import torch.nn.functional as F
from torch import Tensor


# --- element-wise parts: torch.compile fuses each into one pass ------------------------------------------------------
def gather(x_TD, token_N):
    return x_TD[token_N]


def activate(h_NH, gate_N):
    u, v = h_NH.float().chunk(2, -1)
    return (F.silu(u) * v * gate_N[:, None]).to(h_NH.dtype)


def d_activate(h_NH, da_NF, gate_N):
    """d(silu(u)·v·gate): dh in the dtype of h, and the gradient of each gate."""
    u, v = h_NH.float().chunk(2, -1)
    da, s = da_NF.float(), torch.sigmoid(u)
    silu, g = u * s, da * gate_N[:, None]
    dgate_N = (da * silu * v).sum(-1)
    return torch.cat((g * v * (s + silu * (1 - s)), g * silu), -1).to(h_NH.dtype), dgate_N


def combine(o_ND, where_N, K: int):
    """Token-major sum over the K rows of each token; where_N = row of assignment t·K + k after the sort."""
    return o_ND[where_N].view(-1, K, o_ND.shape[1]).sum(1)


EAGER = {f.__name__: f for f in (gather, activate, d_activate, combine)}


@functools.cache
def compiled_parts(dynamic):
    """Compiled once per process. `dynamic` for rows whose number changes with the routing."""
    return {name: torch.compile(f, dynamic=dynamic) for name, f in EAGER.items()}


# --- products on the slices of the experts ---------------------------------------------------------------------------
class Mm:
    """torch.mm into slices of one preallocated output. On CUDA: the cuBLAS loop, one host synchronisation."""

    def __init__(self, weights_EMK, trained):
        self.w = weights_EMK

    def spans(self, offsets_E):
        ends = offsets_E.tolist()
        return list(zip(range(len(ends)), [0, *ends[:-1]], ends))

    def nt(self, x, spans):
        out = x.new_empty(x.shape[0], self.w.shape[1])
        for e, s, t in spans:
            if s < t:
                torch.mm(x[s:t], self.w[e].t(), out=out[s:t])
        return out

    def nn(self, x, spans):
        out = x.new_empty(x.shape[0], self.w.shape[2])
        for e, s, t in spans:
            if s < t:
                torch.mm(x[s:t], self.w[e], out=out[s:t])
        return out

    def tn(self, dy, x, spans, trained):
        out = x.new_empty(trained, dy.shape[1], x.shape[1])
        for e, s, t in spans[:trained]:
            torch.mm(dy[s:t].t(), x[s:t], out=out[e])  # no rows: mm writes zeros
        return out


class Dnn(Mm):
    """The same through torch's oneDNN op: frozen weights packed once in both directions, trained ones read as they are."""

    def __init__(self, weights_EMK, trained):
        super().__init__(weights_EMK, trained)
        pack = torch.ops.mkldnn._reorder_linear_weight
        frozen = weights_EMK[trained:]
        self.forward_w = [*weights_EMK[:trained], *(pack(w, None) for w in frozen)]
        self.backward_w = [*weights_EMK[:trained].mT, *(pack(w.t().contiguous(), None) for w in frozen)]

    @staticmethod
    def product(x, w):
        return torch.ops.mkldnn._linear_pointwise(x, w, None, "none", [], "")

    def nt(self, x, spans):
        return torch.cat([self.product(x[s:t], self.forward_w[e]) for e, s, t in spans if s < t])

    def nn(self, x, spans):
        return torch.cat([self.product(x[s:t], self.backward_w[e]) for e, s, t in spans if s < t])

    def tn(self, dy, x, spans, trained):
        out = x.new_zeros(trained, dy.shape[1], x.shape[1])
        for e, s, t in spans[:trained]:
            if s < t:
                out[e] = self.product(dy[s:t].t(), x[s:t].t())
        return out


class Grouped(Mm):
    """torch.nn.functional.grouped_mm: one call per role, offsets stay on the device."""

    def spans(self, offsets_E):
        return offsets_E.to(torch.int32)

    def nt(self, x, offsets):
        return F.grouped_mm(x, self.w[: len(offsets)].mT, offs=offsets)

    def nn(self, x, offsets):
        return F.grouped_mm(x, self.w[: len(offsets)], offs=offsets)

    def tn(self, dy, x, offsets, trained):
        return F.grouped_mm(dy.t(), x, offs=offsets[:trained])


PRODUCTS = {"mm": Mm, "dnn": Dnn, "grouped": Grouped}


# --- the hand-written layer ------------------------------------------------------------------------------------------
class HandExperts(torch.nn.Module):
    """One sort and gather, per-expert products, dW only of the first `trained` experts, element-wise parts compiled or not.

    The whole layer is one custom op with its own backward, so torch.compile of a model around it sees one node.
    """

    registry: dict[int, "HandExperts"] = {}
    keys = itertools.count()

    def __init__(self, gate_up_EHD, down_EDF, trained, products="mm", compiled=False):
        super().__init__()
        gate_up_EHD, down_EDF = gate_up_EHD.detach(), down_EDF.detach()
        self.E, self.trained, self.key = gate_up_EHD.shape[0], trained, next(self.keys)
        self.gate_up_trained = torch.nn.Parameter(gate_up_EHD[:trained], requires_grad=trained > 0)
        self.down_trained = torch.nn.Parameter(down_EDF[:trained], requires_grad=trained > 0)
        self.gate_up, self.down = PRODUCTS[products](gate_up_EHD, trained), PRODUCTS[products](down_EDF, trained)
        self.compiled = compiled
        HandExperts.registry[self.key] = self

    def parts(self, whole):
        return compiled_parts(not whole) if self.compiled else EAGER

    def close(self):
        HandExperts.registry.pop(self.key, None)

    def forward(self, x_TD, top_k_index, top_k_weights):
        y, *_ = hand_forward(x_TD, top_k_index, top_k_weights, self.gate_up_trained, self.down_trained, self.key,
                             x_TD.requires_grad or top_k_weights.requires_grad)
        return y

    def compute(self, x_TD, index_TK, gate_TK):
        part, K = self.parts(True), index_TK.shape[1]
        expert_N, order_N = torch.sort(index_TK.flatten())
        token_N = order_N // K
        gate_N = gate_TK.flatten().float()[order_N]
        offsets_E = torch.searchsorted(expert_N, torch.arange(self.E, device=x_TD.device), right=True)
        where_N = torch.empty_like(order_N)
        where_N[order_N] = torch.arange(order_N.numel(), device=order_N.device)
        spans = self.gate_up.spans(offsets_E)
        x_ND = part["gather"](x_TD, token_N)
        h_NH = self.gate_up.nt(x_ND, spans)
        a_NF = part["activate"](h_NH, gate_N)
        y_TD = part["combine"](self.down.nt(a_NF, spans), where_N, K)
        return y_TD, x_ND, h_NH, a_NF, gate_N, token_N, where_N, offsets_E

    def gradients(self, dy_TD, x_ND, h_NH, a_NF, gate_N, token_N, where_N, offsets_E, K, need_dx):
        """dx, dgate, dgate_up, ddown. Without need_dx (nothing trained below) only rows of trained experts are met."""
        spans, n = self.gate_up.spans(offsets_E), self.trained
        if not need_dx:
            rows = int(offsets_E[n - 1])
            x_ND, h_NH, a_NF, gate_N, token_N = (t[:rows] for t in (x_ND, h_NH, a_NF, gate_N, token_N))
            spans = spans[:n]
        part = self.parts(need_dx)
        dy_ND = part["gather"](dy_TD, token_N)
        dh_NH, dgate_N = part["d_activate"](h_NH, self.down.nn(dy_ND, spans), gate_N)
        d_down = self.down.tn(dy_ND, a_NF, spans, n) if n else dy_TD.new_empty(0, dy_TD.shape[1], a_NF.shape[1])
        d_gate_up = self.gate_up.tn(dh_NH, x_ND, spans, n) if n else dy_TD.new_empty(0, h_NH.shape[1], x_ND.shape[1])
        if not need_dx:
            return torch.zeros_like(dy_TD), dgate_N.new_zeros(where_N.numel() // K, K), d_gate_up, d_down
        dx_TD = part["combine"](self.gate_up.nn(dh_NH, spans), where_N, K)
        return dx_TD, dgate_N[where_N].view(-1, K), d_gate_up, d_down


@torch.library.custom_op("peer::experts", mutates_args=())
def hand_forward(x: Tensor, index: Tensor, gate: Tensor, gate_up: Tensor, down: Tensor, key: int, need_dx: bool) -> tuple[
        Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return HandExperts.registry[key].compute(x, index, gate)


@hand_forward.register_fake
def _(x, index, gate, gate_up, down, key, need_dx):
    N, (H, F_) = index.numel(), (gate_up.shape[1], down.shape[2])
    rows = lambda width: x.new_empty(N, width)
    ints = lambda n: index.new_empty(n, dtype=torch.int64)
    return (torch.empty_like(x), rows(x.shape[1]), rows(H), rows(F_), gate.new_empty(N, dtype=torch.float32),
            ints(N), ints(N), ints(HandExperts.registry[key].E))


@torch.library.custom_op("peer::experts_backward", mutates_args=())
def hand_backward(dy: Tensor, x: Tensor, h: Tensor, a: Tensor, gate: Tensor, token: Tensor, where: Tensor, offsets: Tensor,
                  key: int, K: int, need_dx: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return HandExperts.registry[key].gradients(dy.contiguous(), x, h, a, gate, token, where, offsets, K, need_dx)


@hand_backward.register_fake
def _(dy, x, h, a, gate, token, where, offsets, key, K, need_dx):
    n, D = HandExperts.registry[key].trained, dy.shape[1]
    return (torch.empty_like(dy), gate.new_empty(where.numel() // K, K), dy.new_empty(n, h.shape[1], D),
            dy.new_empty(n, D, a.shape[1]))


def setup_context(ctx, inputs, output):
    _, index, gate, _, _, ctx.key, ctx.need_dx = inputs
    ctx.K, ctx.gate_dtype = index.shape[1], gate.dtype
    ctx.save_for_backward(*output[1:])


def backward(ctx, dy, *_):
    dx, dgate, d_gate_up, d_down = hand_backward(dy, *ctx.saved_tensors, ctx.key, ctx.K, ctx.need_dx)
    return dx, None, dgate.to(ctx.gate_dtype), d_gate_up, d_down, None, None


hand_forward.register_autograd(backward, setup_context=setup_context)


# --- the loop that people train with ---------------------------------------------------------------------------------
class LoopExperts(torch.nn.Module):
    """transformers 4 and the released ESFT code: three matrices per expert, gradients only for the trained ones."""

    def __init__(self, gate_up_EHD, down_EDF, trained):
        super().__init__()
        gate_EFD, up_EFD = gate_up_EHD.detach().chunk(2, 1)
        self.E, self.trained = gate_up_EHD.shape[0], trained
        one = lambda w, e: torch.nn.Parameter(w[e].detach(), requires_grad=e < trained)
        self.weights = torch.nn.ModuleList(
            torch.nn.ParameterList([one(gate_EFD, e), one(up_EFD, e), one(down_EDF, e)]) for e in range(self.E))

    def forward(self, x_TD, top_k_index, top_k_weights):
        y_TD = torch.zeros_like(x_TD)
        mask_EKT = F.one_hot(top_k_index, self.E).permute(2, 1, 0)
        for e, (gate, up, down) in enumerate(self.weights):
            k, token = torch.where(mask_EKT[e])
            x = x_TD[token]
            o = F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down) * top_k_weights[token, k, None]
            y_TD.index_add_(0, token, o.to(y_TD.dtype))
        return y_TD

    def close(self):
        pass
