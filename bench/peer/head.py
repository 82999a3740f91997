"""Language-model head: logits = x W^T, mean cross-entropy over all rows, dX. The head is frozen: no dW in anyone's time."""
import torch
import torch.nn.functional as F

from .case import DTYPES, Timed, Variant

CHUNK_LOGITS = {"cpu": 1 << 20, "cuda": 1 << 28}  # logits per chunk: about 4 MB of f32 on the CPU


def whole(x, w, labels):
    """What transformers computes: logits in the model's dtype, loss in f32, gradients by autograd."""
    return F.cross_entropy(F.linear(x, w).float(), labels)


def softmax_grad(logits, labels, scale):
    """Loss of each row and d(mean loss)/d logits, in f32; the gradient leaves in the dtype of the logits."""
    z = logits.float()
    lse = torch.logsumexp(z, -1, keepdim=True)
    hit = torch.arange(z.shape[1], device=z.device) == labels[:, None]
    loss = lse.squeeze(1) - z.gather(1, labels[:, None]).squeeze(1)
    return loss, ((torch.exp(z - lse) - hit.float()) * scale).to(logits.dtype)


class Chunked:
    """By hand: chunks of rows whose logits stay in cache; the backward is done while they are there."""

    def __init__(self, x, w, labels, products, compiled, device):
        self.x, self.w, self.labels = x, w, labels
        self.rows = max(1, min(x.shape[0], CHUNK_LOGITS[device] // w.shape[0]))
        self.grad = torch.compile(softmax_grad, dynamic=False) if compiled else softmax_grad
        if products == "dnn":
            op, pack = torch.ops.mkldnn._linear_pointwise, torch.ops.mkldnn._reorder_linear_weight
            nt, nn = pack(w, self.rows), pack(w.t().contiguous(), self.rows)
            self.forward = lambda x: op(x, nt, None, "none", [], "")
            self.backward = lambda d: op(d, nn, None, "none", [], "")
        else:
            self.forward, self.backward = (lambda x: x @ w.t()), (lambda d: d @ w)

    def run(self):
        with torch.no_grad():
            dx, loss, n = torch.empty_like(self.x), 0.0, self.x.shape[0]
            for s in range(0, n, self.rows):
                rows = slice(s, s + self.rows)
                row_loss, d = self.grad(self.forward(self.x[rows]), self.labels[rows], 1.0 / n)
                dx[rows] = self.backward(d)
                loss = loss + row_loss.sum()
            return loss / n, dx

    def outputs(self):
        return list(self.run())


def variants(case, env):
    n, d, v = (case.sizes[letter] for letter in "TDV")
    names = ["whole", "whole-compile", "chunk", "chunk-compile"]
    if env.suite == "cpu":
        names += ["chunk-dnn", "chunk-dnn-compile"]
    for name in names:
        def make(env, name=name):
            dtype = DTYPES[case.dtype]
            x, w = env.randn(n, d, dtype=dtype, salt=1), env.randn(v, d, dtype=dtype, scale=d**-0.5, salt=2)
            labels = torch.randint(v, (n,), generator=env.generator(3)).to(env.device)
            if name.startswith("chunk"):
                return Chunked(x, w, labels, "dnn" if "dnn" in name else "mm", "compile" in name, env.device)
            x.requires_grad_()
            f = torch.compile(whole, dynamic=False) if "compile" in name else whole

            def run():
                loss = f(x, w, labels)
                return loss, *torch.autograd.grad(loss, [x])
            return Timed(run, lambda: list(run()))

        yield Variant(case, name, make)
