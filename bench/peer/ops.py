"""Memory-bound ops, the optimizer and the ceilings, as PyTorch users run them: eager, the fused op where there is one, compiled."""
import torch
import torch.nn.functional as F

from .case import DTYPES, Timed, Variant, as_list, no_grad, rotating


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


# --- variants --------------------------------------------------------------------------------------------------------
def functions(eager, **others):
    return {"eager": eager, **others, "compile": compiled(eager)}


def of_functions(case, table, inputs, *others):
    """Each function of the table on `inputs(env)`, or its backward with respect to the first of them."""
    for name, f in table.items():
        def make(env, f=f):
            first, *rest = inputs(env)
            return no_grad(f, first, *rest, *others) if case.mode == "fwd" else gradient(env, f, [first], *rest, *others)
        yield rotating(case, name, make)


def ceiling(case, env):
    """cuBLAS and a copy, measured again and again while the run goes on: they stay set up (harness.PINNED)."""
    if case.config == "copy":
        yield from copy(case, env, graph=False)
        return
    m, n, k = (case.sizes[letter] for letter in "MNK")

    def cublas(env):
        x, w = (env.randn(*shape, dtype=DTYPES[case.dtype], salt=s) for s, shape in enumerate(((m, k), (n, k)), 1))
        out = x.new_empty(m, n)
        return no_grad(lambda x, w: torch.mm(x, w.t(), out=out), x, w)
    yield rotating(case, "cublas", cublas, bytes=2 * (m * k + n * k + m * n), graph=False)


def copy(case, env, graph=True):
    def make(env):
        x = env.randn(case.sizes["rows"], case.sizes["cols"], dtype=DTYPES[case.dtype], salt=1)
        return no_grad(torch.empty_like(x).copy_, x)
    yield rotating(case, "torch", make, graph=graph)


def norm(case, env):
    T, D = case.sizes["T"], case.sizes["D"]
    dtype = DTYPES[case.dtype]
    inputs = lambda env: (env.randn(T, D, dtype=dtype, salt=1), env.randn(D, dtype=dtype, salt=2))
    yield from of_functions(case, functions(rms_norm, fused=fused_rms_norm), inputs)


def rotary(case, env):
    T, heads, dim = (case.sizes[k] for k in ("T", "heads", "dim"))
    dtype = DTYPES[case.dtype]
    inputs = lambda env: (env.randn(T, heads, dim, dtype=dtype, salt=1), *(env.randn(T, dim, salt=s).to(dtype) for s in (2, 3)))
    yield from of_functions(case, functions(rope), inputs)


def activation(case, env):
    if "-" in case.config:
        return  # no SwiGLU
    T, width = case.sizes["T"], case.sizes["F"]
    yield from of_functions(case, functions(swiglu), lambda env: (env.randn(T, 2 * width, dtype=DTYPES[case.dtype], salt=1),))


def addition(case, env):
    T, D = case.sizes["T"], case.sizes["D"]
    inputs = lambda env: [env.randn(T, D, dtype=DTYPES[case.dtype], salt=s) for s in (1, 2)]
    yield from of_functions(case, {"eager": torch.add}, inputs)


def routing(case, env):
    T, E, K = (case.sizes[k] for k in "TEK")
    yield from of_functions(case, functions(route), lambda env: (env.randn(T, E, salt=1),), K)


def combination(case, env):
    T, K, D = (case.sizes[k] for k in "TKD")
    dtype = DTYPES[case.dtype]

    def inputs(env):
        where_N = torch.randperm(T * K, generator=env.generator(2)).to(env.device)
        return env.randn(T * K, D, dtype=dtype, salt=1), where_N, env.randn(T, K, dtype=dtype, salt=3)
    yield from of_functions(case, functions(combine), inputs)


class FusedAdamW:
    """torch.optim.AdamW(fused=True) over as many matrices as ours has; bytes read and written per parameter are its own."""

    def __init__(self, env, sizes, dtype):
        self.parameters = [torch.nn.Parameter(env.randn(sizes["rows"], sizes["cols"], dtype=dtype, scale=0.02, salt=i))
                           for i in range(sizes["matrices"])]
        for p in self.parameters:
            p.grad = env.randn(*p.shape, dtype=dtype, scale=0.01, salt=1)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-5, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
        self.run = self.optimizer.step

    def outputs(self):
        self.run()
        return [self.parameters[0]]


def adamw(case, env):
    n = case.sizes["matrices"] * case.sizes["rows"] * case.sizes["cols"]
    for name, dtype, each in (("fused-f32", torch.float32, 28), ("fused-bf16", torch.bfloat16, 14)):
        make = lambda env, dtype=dtype: FusedAdamW(env, case.sizes, dtype)
        yield Variant(case, name, make, bytes=each * n, other=dtype != torch.float32)


def grad_norm(case, env):
    def make(env):
        grads = [env.randn(case.sizes["rows"], case.sizes["cols"], scale=0.01, salt=i) for i in range(case.sizes["matrices"])]
        return no_grad(lambda: torch.nn.utils.get_total_norm(grads, foreach=True))
    yield Variant(case, "foreach", make)


VARIANTS = {"ceiling": ceiling, "copy": copy, "rms_norm": norm, "rope": rotary, "swiglu": activation, "add": addition,
            "routing": routing, "combine": combination, "adamw": adamw, "grad_norm": grad_norm}


def variants(case, env):
    return VARIANTS[case.what](case, env)
