"""What a contender is: a case as bench/cases describes it, a variant of it that torch runs, and what its body may be made of."""
import os
import sys
from dataclasses import dataclass, field
from typing import Callable

import torch

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
CACHE_BYTES = 180e6  # three times the L2 of an H200


@dataclass
class Env:
    device: str  # where torch computes
    suite: str  # whose cases these are, cpu or cuda: on small sizes those of cuda run on the CPU too
    seed: int
    tiny: bool = False
    shared: dict = field(default_factory=dict)  # per group: weights and data that its contenders have in common

    def require_device(self):
        if self.device == "cuda" and not torch.cuda.is_available():
            sys.exit("--device cuda: torch sees no CUDA device (driver missing, or a CPU build of torch)")

    def generator(self, salt=0):
        return torch.Generator().manual_seed(self.seed * 1000003 + salt)

    def randn(self, *shape, dtype=torch.float32, scale=1.0, salt=0):
        if self.device == "cuda":  # billions of numbers: drawn there
            generator = torch.Generator("cuda").manual_seed(self.seed * 1000003 + salt)
            return torch.randn(*shape, generator=generator, device="cuda", dtype=dtype).mul_(scale)
        return (torch.randn(*shape, generator=self.generator(salt)) * scale).to(dtype).to(self.device)

    def once(self, group, make):
        if group not in self.shared:
            self.shared[group] = make()
        return self.shared[group]

    def sync(self):
        if self.device == "cuda":
            torch.cuda.synchronize()

    def meta(self):
        import transformers

        return {
            "torch": torch.__version__, "transformers": transformers.__version__, "python": sys.version.split()[0],
            "device": torch.cuda.get_device_name() if self.device == "cuda" else torch.backends.cpu.get_cpu_capability(),
            "mkl": torch.backends.mkl.is_available(), "onednn": torch.backends.mkldnn.is_available(),
            "mkl_avx512_shim": "--mkl-avx512" in sys.argv, "threads": torch.get_num_threads(),
            "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
            "seed": self.seed, "tiny": self.tiny,
        }


@dataclass
class Case:
    """A row of the table of cases, as `npm run bench -- --describe` prints it."""
    id: str
    what: str
    config: str
    dtype: str
    mode: str
    sizes: dict
    headline: bool = True  # else run when asked for by id or --slow
    flops: float = 0.0
    bytes: float = 0.0
    tokens: int = 0

    @property
    def group(self):
        """Cases whose contenders are interleaved and share weights."""
        return f"{self.what}/{self.config}/{self.dtype}"


@dataclass
class Variant:
    """One contender of a case. `make(env)` returns an object with run() (what is timed) and outputs() (what is checked)."""
    case: Case
    name: str
    make: Callable
    slow: bool = False
    bytes: float = 0  # that its form of the work must move, where it has another
    other: bool = False  # not the same work: listed, never the fastest
    graph: bool = False  # short calls: on CUDA timed as a replayed graph, and eagerly

    @property
    def id(self):
        return f"{self.case.id}/{self.name}"

    def describe(self):
        n_bytes = self.bytes or self.case.bytes
        return {"id": self.id, "flops": self.case.flops, "tokens": self.case.tokens, "slow": self.slow, "sizes": self.case.sizes,
                **({"bytes": n_bytes} if n_bytes else {}), **({"other": True} if self.other else {})}


@dataclass
class Timed:
    """The smallest contender: a function of nothing."""
    run: Callable
    outputs: Callable


def as_list(value):
    return list(value) if isinstance(value, (tuple, list)) else [value]


def no_grad(f, *inputs):
    def run():
        with torch.no_grad():
            return f(*inputs)
    return Timed(run, lambda: as_list(run()))


class Rotated:
    """A contender made several times; calls go round, so that a GPU's L2 cache holds nothing of the next one."""

    def __init__(self, env, make, bytes_of_one):
        sets = 1 if bytes_of_one > 2e9 else max(3, min(16, -(-int(CACHE_BYTES) // max(1, int(bytes_of_one)))))
        self.bodies = [make() for _ in range(sets if env.device == "cuda" else 1)]
        self.next = 0

    @property
    def runs(self):
        return [b.run for b in self.bodies]

    def run(self):
        self.next = (self.next + 1) % len(self.bodies)
        return self.bodies[self.next].run()

    def outputs(self):
        return self.bodies[0].outputs()


def rotating(case, name, make, bytes=0, graph=True):
    """A variant in several sets of buffers, of about as many bytes as the case moves."""
    return Variant(case, name, lambda env: Rotated(env, lambda: make(env), bytes or case.bytes), bytes=bytes, graph=graph)
