"""Dense products y_MN = x_MK W_NK^T: what torch users call (F.linear), and oneDNN and MKL through torch's own ops."""
import torch
import torch.nn.functional as F

from .gpu import DTYPE, shapes
from .gpu_ops import no_grad, row_case
from .harness import DTYPES, Case, Timed

SHAPES_KN = ((2048, 1408), (1408, 2048), (2048, 2048), (512, 512), (256, 256))
ROWS_M = (16, 64, 192, 256, 384, 1024)


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


def gpu_cases(env):
    """y = x·Wᵀ, and its input gradient dx = dy·W, into fresh and into preallocated memory."""
    for k, n, m in shapes(env.tiny)["gemm"]:
        for mode, (left, right) in {"": ((m, k), (k, n)), "-nn": ((m, n), (n, k))}.items():
            for variant in ("mm", "mm-out"):
                def make(env, k=k, n=n, left=left, right=right, mode=mode, variant=variant):
                    x, w_NK = env.randn(*left, dtype=DTYPE, salt=1), env.randn(n, k, dtype=DTYPE, salt=2)
                    w = w_NK if mode else w_NK.t()
                    out = x.new_empty(left[0], right[1]) if variant == "mm-out" else None
                    return no_grad(lambda x, w: torch.mm(x, w, out=out), x, w)

                yield row_case("gemm", f"{k}x{n}", f"M{m}{mode}", variant, make, 2 * (m * k + n * k + m * n),
                               flops=2.0 * m * k * n)


def cases(env):
    if env.suite == "cuda":
        yield from gpu_cases(env)
        return
    variants = {"linear": linear, "mm-out": mm_out, "dnn": dnn, "dnn-packed": dnn_packed, "mkl-packed": mkl_packed}
    for k, n in SHAPES_KN:
        for dtype in DTYPES:
            for m in ROWS_M:
                for name, variant in variants.items():
                    if name == "mkl-packed" and dtype != "f32":
                        continue

                    def make(env, k=k, n=n, m=m, dtype=DTYPES[dtype], variant=variant):
                        x = env.randn(m, k, dtype=dtype, salt=1)
                        f = variant(x, env.randn(n, k, dtype=dtype, salt=2))

                        def run():
                            with torch.inference_mode():
                                return f()
                        return Timed(run, lambda: [run()])

                    yield Case("gemm", f"{k}x{n}", dtype, f"M{m}", name, 2.0 * m * k * n, make,
                               shape={"K": k, "N": n, "M": m})
