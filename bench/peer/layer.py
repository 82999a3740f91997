"""One MoE layer: routing is given, no router, no shared expert, no gate gradient in anyone's time. bench/cases/layer.ts says what the
modes are.
"""
import torch

from .experts import HandExperts, LoopExperts
from .case import DTYPES, Variant
from .routing import make_route, row_counts

class Data:
    """What the contenders of a group share. Parameters are views of these weights, so weights exist once."""

    def __init__(self, env, sizes, dtype):
        D, F, E, T = (sizes[k] for k in ("D", "F", "E", "T"))
        self.x, self.dy = (env.randn(T, D, dtype=dtype, salt=s) for s in (1, 2))
        self.gate_up = env.randn(E, 2 * F, D, dtype=dtype, scale=D**-0.5, salt=3)
        self.down = env.randn(E, D, F, dtype=dtype, scale=F**-0.5, salt=4)



def hf_experts(data, sizes, implementation):
    """The experts module of transformers with our weights: one fused parameter per matrix, so its gradient is whole."""
    from transformers import DeepseekV2Config
    from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Experts

    D, F, E, K = (sizes[k] for k in "DFEK")
    config = DeepseekV2Config(hidden_size=D, moe_intermediate_size=F, n_routed_experts=E, num_experts_per_tok=K)
    config._experts_implementation = implementation
    with torch.device("meta"):
        module = DeepseekV2Experts(config)
    module.gate_up_proj, module.down_proj = (torch.nn.Parameter(w) for w in (data.gate_up, data.down))
    return module


def peft_experts(data, sizes, implementation):
    """The same with PEFT's LoRA of rank 16 on both parameters (`target_parameters`): each forward adds the whole delta of all experts."""
    from peft import LoraConfig, inject_adapter_in_model

    holder = torch.nn.Module()
    holder.experts = hf_experts(data, sizes, implementation)
    targets = ["experts.gate_up_proj", "experts.down_proj"]
    holder = inject_adapter_in_model(LoraConfig(r=16, lora_alpha=32, target_parameters=targets), holder)
    for name, p in holder.experts.named_parameters():
        if "lora_B" in name:  # zeros, where a gradient of A would be one of zeros
            torch.nn.init.normal_(p, std=1e-3)
    return holder.experts.to(data.gate_up.dtype)


class Layer:
    def __init__(self, env, case, variant):
        sizes, dtype, mode = case.sizes, DTYPES[case.dtype], case.mode
        T, self.E, K = (sizes[k] for k in "TEK")
        self.data = env.once(case.group, lambda: Data(env, sizes, dtype))
        self.mode, self.route = mode, make_route(env, sizes["routing"], T, self.E, K, dtype)
        self.trained = self.E if mode in ("full", "bwd-all") else sizes["trained"] if "esft" in mode else 0
        kind, *options = variant.split("-")
        if kind == "hf":
            self.module = hf_experts(self.data, sizes, {"eager": "eager", "grouped": "grouped_mm"}[options[0]])
            for p in self.module.parameters():
                p.requires_grad_(self.trained > 0)
            self.parameters = [p for p in self.module.parameters() if p.requires_grad]
        elif kind == "peft":
            self.module = peft_experts(self.data, sizes, {"eager": "eager", "grouped": "grouped_mm"}[options[0]])
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


def names(case, env):
    if case.mode.endswith("perft-r"):
        return []  # nobody else has it
    if case.mode.endswith("lora"):
        return ["peft-eager", "peft-grouped"] if case.mode == "lora" else []
    hf, hand = ["hf-eager", "hf-grouped", "hf-grouped-compile"], ["hand-mm", "hand-mm-compile"]
    if env.suite == "cpu":
        if case.mode == "dx":
            hf.remove("hf-eager")
        return ["loop", *hf, *hand, "hand-grouped-compile", "hand-dnn", "hand-dnn-compile"]
    # Everyone on uniform routing; where only the routing differs, those that could be the fastest.
    if case.sizes["routing"] == "uniform" or case.mode == "bwd-esft":
        return ["loop", *hf, *hand, "hand-grouped", "hand-grouped-compile"]
    return ["hf-grouped", "hand-grouped-compile", "hand-mm"]


def variants(case, env):
    for name in names(case, env):
        # eager transformers adds a whole-tensor gradient per expert: half a minute per call at d2048
        slow = env.suite == "cpu" and name.endswith("-eager") and case.sizes["D"] >= 2048 and case.mode != "fwd"
        yield Variant(case, name, lambda env, name=name: Layer(env, case, name), slow=slow)
