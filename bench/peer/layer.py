"""One MoE layer: routing is given, no router, no shared expert, no gate gradient in anyone's time.

Modes: fwd; dx (forward + dX); esft (forward + dX + dW of `trained` experts); full (dW of all of them).
On CUDA the backward is timed alone, for every routing: bwd-none (dX), bwd-esft (+ dW of the hottest `trained`), bwd-all.
"""
import torch

from .experts import HandExperts, LoopExperts, make_route
from .gpu import gpu_route, row_counts
from .gpu import shapes as gpu_shapes
from .harness import DTYPES, Case

# D, F, E, K, T, trained
CPU_SHAPES = {"d256": (256, 128, 64, 6, 4096, 8), "d2048": (2048, 1408, 64, 6, 2048, 8)}


def layer_flops(D, F, E, K, T, trained):
    """Useful flops: 6·D·F per assignment and pass; dW of the share of assignments that meets trained experts."""
    one = 6.0 * D * F * K * T
    return {"fwd": one, "dx": 2 * one, "esft": (2 + trained / E) * one, "full": 3 * one}


class Data:
    """What the contenders of a group share. Parameters are views of these weights, so weights exist once."""

    def __init__(self, env, shape, dtype, routing=None):
        D, F, E, K, T, _ = shape
        self.x, self.dy = (env.randn(T, D, dtype=dtype, salt=s) for s in (1, 2))
        self.gate_up = env.randn(E, 2 * F, D, dtype=dtype, scale=D**-0.5, salt=3)
        self.down = env.randn(E, D, F, dtype=dtype, scale=F**-0.5, salt=4)
        self.route = gpu_route(env, routing, T, E, K) if routing else make_route(env, T, E, K, dtype, salt=5)


def hf_experts(data, shape, implementation):
    """The experts module of transformers with our weights: one fused parameter per matrix, so its gradient is whole."""
    from transformers import DeepseekV2Config
    from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Experts

    D, F, E, K, _, _ = shape
    config = DeepseekV2Config(hidden_size=D, moe_intermediate_size=F, n_routed_experts=E, num_experts_per_tok=K)
    config._experts_implementation = implementation
    with torch.device("meta"):
        module = DeepseekV2Experts(config)
    module.gate_up_proj, module.down_proj = (torch.nn.Parameter(w) for w in (data.gate_up, data.down))
    return module


class Layer:
    def __init__(self, env, group, shape, dtype, mode, variant, routing=None):
        self.data = env.once(group, lambda: Data(env, shape, dtype, routing))
        self.mode, self.route, self.E = mode, self.data.route, shape[2]
        self.trained = {"esft": shape[5], "full": shape[2], "bwd-esft": shape[5], "bwd-all": shape[2]}.get(mode, 0)
        kind, *options = variant.split("-")
        if kind == "hf":
            self.module = hf_experts(self.data, shape, {"eager": "eager", "grouped": "grouped_mm"}[options[0]])
            for p in self.module.parameters():
                p.requires_grad_(self.trained > 0)
            self.parameters = [p for p in self.module.parameters() if p.requires_grad]
        elif kind == "loop":
            self.module = LoopExperts(self.data.gate_up, self.data.down, self.trained)
            self.parameters = [p for p in self.module.parameters() if p.requires_grad]
        else:
            self.module = HandExperts(self.data.gate_up, self.data.down, self.trained, options[0], "compile" in options)
            self.parameters = [p for p in self.module.parameters() if p.requires_grad]
        self.kind = kind
        self.call = torch.compile(self.module, dynamic=False) if kind == "hf" and "compile" in options else self.module
        self.x = self.data.x.detach().requires_grad_(mode != "fwd")
        if mode.startswith("bwd"):  # the forward once, outside every time
            self.y = self.call(self.x, self.route.index_TK, self.route.gate_TK)
            rows = row_counts(self.route, self.E)
            self.facts = {"trainedRowShare": (rows[: self.trained].sum() / rows.sum()).item(),
                          "maxOverMean": (rows.max() * self.E / rows.sum()).item()}

    def __del__(self):
        if hasattr(getattr(self, "module", None), "close"):
            self.module.close()

    def run(self):
        if self.mode.startswith("bwd"):
            return self.y, torch.autograd.grad(self.y, [self.x, *self.parameters], self.data.dy, retain_graph=True)
        if self.mode == "fwd":
            with torch.no_grad():
                return self.call(self.x, self.route.index_TK, self.route.gate_TK), ()
        y = self.call(self.x, self.route.index_TK, self.route.gate_TK)
        return y, torch.autograd.grad(y, [self.x, *self.parameters], self.data.dy)

    def outputs(self):
        """y, dx, dW gate|up of the trained experts, dW down."""
        y, grads = self.run()
        if not grads:
            return [y]
        dx, *dw = grads
        if self.kind == "loop" and dw:
            gate, up, down = (torch.stack(dw[i::3]) for i in range(3))
            dw = [torch.cat((gate, up), 1), down]
        return [y, dx, *(g[: self.trained] for g in dw)]


def gpu_cases(env):
    """Everyone on uniform routing; where only the routing differs, those that could be the fastest."""
    table = gpu_shapes(env.tiny)
    fast = ("hf-grouped", "hand-grouped-compile", "hand-mm")
    everyone = ("loop", "hf-eager", "hf-grouped", "hf-grouped-compile", "hand-mm", "hand-mm-compile", "hand-grouped",
                "hand-grouped-compile")
    for name, model in table["models"].items():
        D, F, E, K, trained = (model[k] for k in ("D", "F", "E", "K", "trained"))
        one = 6.0 * D * F * K
        for T in table["tokens"]:
            shape = (D, F, E, K, T, trained)
            for routing in table["routings"]:
                config = f"{name}-T{T}-{routing}"
                for mode in ("fwd", "bwd-none", "bwd-esft", "bwd-all"):
                    all_of_them = routing == "uniform" or mode == "bwd-esft"
                    for variant in everyone if all_of_them else fast:
                        def make(env, config=config, shape=shape, mode=mode, variant=variant, routing=routing):
                            group = f"layer/{config}/bf16"
                            return Layer(env, group, shape, DTYPES["bf16"], mode, variant, routing)

                        flops = one * T * {"fwd": 1, "bwd-none": 1, "bwd-all": 2}.get(mode, 0)  # esft: facts say which rows
                        yield Case("layer", config, "bf16", mode, variant, flops, make, tokens=T,
                                   sweep=mode not in table["headline"].get(config, ()), shape={**model, "T": T, "routing": routing})


def cases(env):
    if env.suite == "cuda":
        yield from gpu_cases(env)
        return
    hand = ["hand-mm", "hand-mm-compile", "hand-grouped-compile", "hand-dnn", "hand-dnn-compile"]
    for config, shape in CPU_SHAPES.items():
        D, F, E, K, T, trained = shape
        flops = layer_flops(*shape)
        for dtype in DTYPES:
            for mode in ("fwd", "esft", "dx", "full"):
                for variant in ("loop", "hf-eager", "hf-grouped", "hf-grouped-compile", *hand):
                    if mode == "dx" and variant.startswith("hf-eager"):
                        continue
                    # eager transformers adds a whole-tensor gradient per expert: half a minute per call at d2048
                    slow = variant == "hf-eager" and D >= 2048 and mode != "fwd"

                    def make(env, config=config, dtype=dtype, shape=shape, mode=mode, variant=variant):
                        return Layer(env, f"layer/{config}/{dtype}", shape, DTYPES[dtype], mode, variant)

                    yield Case("layer", config, dtype, mode, variant, flops[mode], make, tokens=T, slow=slow,
                               shape={"D": D, "F": F, "E": E, "K": K, "T": T, "trained": trained})
