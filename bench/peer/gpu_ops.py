"""Memory-bound ops, the optimizer and the ceilings, as PyTorch users run them: eager, the fused op where there is one, compiled."""
import torch
import torch.nn.functional as F

from .gpu import DTYPE, Rotated, shapes
from .harness import Case, Timed


def no_grad(f, *inputs):
    def run():
        with torch.no_grad():
            return f(*inputs)
    return Timed(run, lambda: as_list(run()))


def as_list(value):
    return list(value) if isinstance(value, (tuple, list)) else [value]


def gradient(env, f, inputs, *others):
    """The backward alone: the graph is built once."""
    inputs = [t.requires_grad_() for t in inputs]
    y = f(*inputs, *others)
    dy = env.randn(*y.shape, dtype=y.dtype, salt=9)
    run = lambda: torch.autograd.grad(y, inputs, dy, retain_graph=True)
    return Timed(run, lambda: as_list(run()))


# --- the functions ---------------------------------------------------------------------------------------------------
def rms_norm(x, w):
    """As models write it: f32 inside."""
    z = x.float()
    return w * (z * torch.rsqrt(z.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


def fused_rms_norm(x, w):
    return F.rms_norm(x, (x.shape[-1],), w, 1e-6)


def rope(x_THC, cos_TC, sin_TC):
    half = x_THC.shape[-1] // 2
    turned = torch.cat((-x_THC[..., half:], x_THC[..., :half]), -1)
    return (x_THC * cos_TC[:, None] + turned * sin_TC[:, None]).to(x_THC.dtype)


def swiglu(h):
    gate, up = h.chunk(2, -1)
    return F.silu(gate) * up


def route(logits_TE, K):
    """Experts and gates of every token, the order by expert and its inverse, the ends, and the sums of a profile."""
    probs_TE = torch.softmax(logits_TE, -1)
    gate_TK, index_TK = probs_TE.topk(K, -1)
    expert_N, order_N = torch.sort(index_TK.flatten(), stable=True)
    E = logits_TE.shape[1]
    ends_E = torch.searchsorted(expert_N, torch.arange(E, device=expert_N.device), right=True)
    where_N = torch.empty_like(order_N)
    where_N[order_N] = torch.arange(order_N.numel(), device=order_N.device)
    counts_E = torch.zeros(E, dtype=torch.int64, device=order_N.device).scatter_add_(
        0, index_TK.flatten(), torch.ones_like(order_N))
    sums_E = torch.zeros(E, dtype=torch.float64, device=order_N.device).scatter_add_(
        0, index_TK.flatten(), gate_TK.flatten().double())
    return gate_TK, index_TK, order_N // K, where_N, ends_E, counts_E, sums_E


def combine(x_ND, where_N, gate_TK):
    return (x_ND[where_N].view(*gate_TK.shape, -1) * gate_TK[..., None]).sum(1)


def compiled(f):
    return torch.compile(f, dynamic=False)


# --- cases -----------------------------------------------------------------------------------------------------------
def row_case(what, config, mode, variant, make, n_bytes, *, flops=0.0, tokens=0, facts=None, graph=True):
    """`make(env)` makes one set; its buffers are about n_bytes."""
    return Case(what, config, "bf16", mode, variant, flops, lambda env: Rotated(env, lambda: make(env), n_bytes),
                tokens=tokens, bytes=n_bytes, graph=graph, shape=facts or {})


def functions(eager, **others):
    return {"eager": eager, **others, "compile": compiled(eager)}


def ceiling_cases(env):
    """cuBLAS and a copy, measured again and again while the run goes on: they stay set up (harness.PINNED)."""
    size = shapes(env.tiny)["gemm"][0][0]
    rows, cols = shapes(env.tiny)["copy"]

    def cublas(env):
        x, w = (env.randn(size, size, dtype=DTYPE, salt=s) for s in (1, 2))
        out = x.new_empty(size, size)
        return no_grad(lambda x, w: torch.mm(x, w.t(), out=out), x, w)
    yield row_case("ceiling", "gemm", "8192", "cublas", cublas, 6 * size * size, flops=2.0 * size**3, graph=False)
    yield row_case("ceiling", "copy", "1GiB", "torch", lambda env: copy_body(env, rows, cols), 4 * rows * cols, graph=False)


def copy_body(env, rows, cols):
    x, y = env.randn(rows, cols, dtype=DTYPE, salt=1), torch.empty(rows, cols, dtype=DTYPE, device=env.device)
    return no_grad(y.copy_, x)


def copy_cases(env):
    rows, cols = shapes(env.tiny)["copy"]
    yield row_case("copy", "1GiB", "copy", "torch", lambda env: copy_body(env, rows, cols), 4 * rows * cols)


def norm_cases(env):
    T, D = (shapes(env.tiny)["norm"][k] for k in "TD")
    for name, f in functions(rms_norm, fused=fused_rms_norm).items():
        inputs = lambda env: (env.randn(T, D, dtype=DTYPE, salt=1), env.randn(D, dtype=DTYPE, salt=2))
        yield row_case("rms_norm", f"{T}x{D}", "fwd", name, lambda env, f=f: no_grad(f, *inputs(env)), 4 * T * D, tokens=T)

        def backward(env, f=f):
            x, w = inputs(env)
            return gradient(env, f, [x], w)
        yield row_case("rms_norm", f"{T}x{D}", "bwd", name, backward, 6 * T * D, tokens=T)


def rope_cases(env):
    T, heads, dim = (shapes(env.tiny)["rope"][k] for k in ("T", "heads", "dim"))
    for name, f in functions(rope).items():
        def make(env, f=f):
            angles = [env.randn(T, dim, salt=s).to(DTYPE) for s in (2, 3)]
            return no_grad(f, env.randn(T, heads, dim, dtype=DTYPE, salt=1), *angles)
        yield row_case("rope", f"{T}x{heads}x{dim}", "fwd", name, make, 4 * T * heads * dim)


def swiglu_cases(env):
    T, width = (shapes(env.tiny)["swiglu"][k] for k in "TF")
    for name, f in functions(swiglu).items():
        h = lambda env: env.randn(T, 2 * width, dtype=DTYPE, salt=1)
        yield row_case("swiglu", f"{T}x{width}", "fwd", name, lambda env, f=f: no_grad(f, h(env)), 6 * T * width)
        yield row_case("swiglu", f"{T}x{width}", "bwd", name, lambda env, f=f: gradient(env, f, [h(env)]), 10 * T * width)


def add_cases(env):
    T, D = (shapes(env.tiny)["norm"][k] for k in "TD")
    make = lambda env: no_grad(torch.add, *(env.randn(T, D, dtype=DTYPE, salt=s) for s in (1, 2)))
    yield row_case("add", f"{T}x{D}", "fwd", "eager", make, 6 * T * D)


def routing_cases(env):
    T, E, K = (shapes(env.tiny)["routing"][k] for k in "TEK")
    for name, f in functions(route).items():
        make = lambda env, f=f: no_grad(f, env.randn(T, E, salt=1), K)
        yield row_case("routing", f"T{T}-E{E}-K{K}", "fwd", name, make, 8 * T * E + 20 * T * K, tokens=T)


def combine_cases(env):
    T, K, D = (shapes(env.tiny)["combine"][k] for k in "TKD")
    for name, f in functions(combine).items():
        def make(env, f=f):
            where_N = torch.randperm(T * K, generator=env.generator(2)).to(env.device)
            return no_grad(f, env.randn(T * K, D, dtype=DTYPE, salt=1), where_N, env.randn(T, K, dtype=DTYPE, salt=3))
        yield row_case("combine", f"T{T}-K{K}-D{D}", "fwd", name, make, 2 * T * (K + 1) * D + 8 * T * K, tokens=T)


class FusedAdamW:
    """torch.optim.AdamW(fused=True) over as many matrices as ours has; bytes read and written per parameter are its own."""

    def __init__(self, env, state, dtype):
        self.parameters = [torch.nn.Parameter(env.randn(state["rows"], state["cols"], dtype=dtype, scale=0.02, salt=i))
                           for i in range(state["matrices"])]
        for p in self.parameters:
            p.grad = env.randn(*p.shape, dtype=dtype, scale=0.01, salt=1)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-5, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
        self.run = self.optimizer.step

    def outputs(self):
        self.run()
        return [self.parameters[0]]


def adamw_cases(env):
    state = shapes(env.tiny)["state"]
    n = state["matrices"] * state["rows"] * state["cols"]
    for name, dtype, each in (("fused-f32", torch.float32, 28), ("fused-bf16", torch.bfloat16, 14)):
        make = lambda env, dtype=dtype: FusedAdamW(env, state, dtype)
        yield Case("adamw", state["name"], "bf16", "step", name, 0.0, make, bytes=each * n, shape=state,
                   other=dtype != torch.float32)


def grad_norm_cases(env):
    state = shapes(env.tiny)["state"]
    n = state["matrices"] * state["rows"] * state["cols"]

    def make(env):
        grads = [env.randn(state["rows"], state["cols"], scale=0.01, salt=i) for i in range(state["matrices"])]
        return no_grad(lambda: torch.nn.utils.get_total_norm(grads, foreach=True))
    yield Case("grad_norm", state["name"], "bf16", "norm", "foreach", 0.0, make, bytes=4 * n, shape=state)


CASES = {"ceiling": ceiling_cases, "copy": copy_cases, "rms_norm": norm_cases, "rope": rope_cases, "swiglu": swiglu_cases,
         "add": add_cases, "routing": routing_cases, "combine": combine_cases, "adamw": adamw_cases,
         "grad_norm": grad_norm_cases}
