"""Dense products y_MN = x_MK W_NK^T: what torch users call (F.linear), and oneDNN and MKL through torch's own ops."""
import torch
import torch.nn.functional as F

from .case import DTYPES, Timed, Variant, no_grad, rotating


def linear(x, w):
    return lambda: F.linear(x, w)


def mm_out(x, w):
    out = x.new_empty(x.shape[0], w.shape[0])
    return lambda: torch.mm(x, w.t(), out=out)


def dnn(x, w):
    """oneDNN on the plain weight: on AMD, twice the f32 speed of F.linear, which calls MKL."""
    op = torch.ops.mkldnn._linear_pointwise
    return lambda: op(x, w, None, "none", [], "")


def dnn_packed(x, w):
    op, packed = torch.ops.mkldnn._linear_pointwise, torch.ops.mkldnn._reorder_linear_weight(w, x.shape[0])
    return lambda: op(x, packed, None, "none", [], "")


def mkl_packed(x, w):
    rows = x.shape[0]
    packed = torch.ops.mkl._mkl_reorder_linear_weight(w, rows)
    return lambda: torch.ops.mkl._mkl_linear(x, packed, w, None, rows)


def mm(case, env):
    """y = x·Wᵀ, and its input gradient dx = dy·W, into fresh and into preallocated memory."""
    m, n, k = (case.sizes[letter] for letter in "MNK")
    backward = case.mode.endswith("-nn")
    left, columns = ((m, n), k) if backward else ((m, k), n)
    for name in ("mm", "mm-out"):
        def make(env, name=name):
            x, w_NK = env.randn(*left, dtype=DTYPES[case.dtype], salt=1), env.randn(n, k, dtype=DTYPES[case.dtype], salt=2)
            w = w_NK if backward else w_NK.t()
            out = x.new_empty(m, columns) if name == "mm-out" else None
            return no_grad(lambda x, w: torch.mm(x, w, out=out), x, w)

        yield rotating(case, name, make)


def variants(case, env):
    if case.mode.endswith("-tn"):
        return  # ours adds to a gradient in f32, torch's product has no such form
    if env.suite == "cuda" or case.mode.endswith("-nn"):
        yield from mm(case, env)
        return
    m, n, k = (case.sizes[letter] for letter in "MNK")
    products = {"linear": linear, "mm-out": mm_out, "dnn": dnn, "dnn-packed": dnn_packed}
    if case.dtype == "f32":
        products["mkl-packed"] = mkl_packed
    for name, product in products.items():
        def make(env, product=product):
            f = product(*(env.randn(*shape, dtype=DTYPES[case.dtype], salt=s) for s, shape in enumerate(((m, k), (n, k)), 1)))

            def run():
                with torch.inference_mode():
                    return f()
            return Timed(run, lambda: [run()])

        yield Variant(case, name, make)
