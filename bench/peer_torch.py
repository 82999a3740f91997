#!/usr/bin/env python3
"""The PyTorch / transformers peer: the same GEMMs, MoE layer, attention, head and training step as `npm run bench`.

One shot: interleaved rounds of every contender of a case, one table, the fastest marked
    python bench/peer_torch.py --what layer,step --rounds 20 --json peer.json
    python bench/peer_torch.py --what gemm --threads 1,2 --filter 'f32.*(linear|dnn)'
    python bench/peer_torch.py --what layer --check          every contender against the reference contender
    python bench/peer_torch.py --list                        one JSON object per contender: id, flops, tokens, config

Serve: slices of rounds on request, so that another process can alternate with torch inside the same minutes
    python bench/peer_torch.py --serve --threads 2
    stdout  {"ready": true, "torch": "2.11.0", ...}
    stdin   run <id> <rounds> [threads]     -> {"id": .., "ms": [..], "cpu_ms": [..], "calls": .., "setup_s": .., ..}
            list | drop | quit              -> {"list": [..]} | {"dropped": n} | (exit)
    A contender is set up and warmed on its first `run`; setup_s says how long that took and is never part of `ms`.
    A failed command answers {"id": .., "error": {"type": .., "message": ..}}. Only JSON is printed on stdout.

An id has five parts: what/config/dtype/mode/variant.
    gemm/2048x1408/f32/M192/dnn-packed       K x N, M rows: F.linear, oneDNN with plain and prepacked weights
    layer/d256/f32/esft/hand-dnn-compile     fwd | dx | esft | full; hf-eager, hf-grouped, loop, hand-*
    attention/hd64-S512/bf16/bwd/sdpa        fwd | bwd, causal
    head/d256-V8192/f32/train/chunk-compile  linear + cross-entropy + dX
    step/olmoe/f32/esft/hand-dnn-compile     esft | full | forward
`ms` is wall time per call; `cpu_ms` is the calling thread's CPU time per call (the fair clock at one thread).
Weights, routing and data come from fixed seeds. Threads: --threads. bench/PEERS.md says what is fair about each peer.

--mkl-avx512 talks MKL into its AVX-512 kernels on CPUs that are not Intel's (a two-line shim, needs cc): "MKL*".
--device cuda runs the contenders of `npm run bench -- --device cuda` in bf16 (shapes in bench/gpu/shapes.json), timed by CUDA events;
calls of some microseconds as replayed CUDA graphs, their eager time beside it. More whats: ceiling, copy, grouped, rms_norm, rope,
swiglu, add, routing, combine, adamw, grad_norm.
--tiny runs those contenders on the CPU on small shapes: it proves the paths and measures nothing.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
WHATS = ("gemm", "layer", "attention", "head", "step")
CUDA_OPS = ("ceiling", "copy", "rms_norm", "rope", "swiglu", "add", "routing", "combine", "adamw", "grad_norm")  # peer/gpu_ops.py
CUDA_WHATS = ("gemm", "attention", "head", *CUDA_OPS, "step", "grouped", "layer")
SHIM = "int mkl_serv_intel_cpu_true(void) { return 1; }\nint mkl_serv_intel_cpu(void) { return 1; }\n"


def parse_args():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--what", default="all", help=f"comma-separated: {', '.join(WHATS)}, or all; on CUDA also grouped and "
                   f"{', '.join(CUDA_OPS)}")
    p.add_argument("--filter", default="", help="regular expression on ids")
    p.add_argument("--rounds", type=int, default=20)
    p.add_argument("--threads", default=str(os.cpu_count() or 1), help="threads, or a comma-separated list (one shot)")
    p.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    p.add_argument("--tiny", action="store_true", help="the contenders of CUDA on the CPU, on small shapes")
    p.add_argument("--dtype", default="", help="f32, bf16 or f32,bf16; default both on the CPU, bf16 on CUDA")
    p.add_argument("--routing", default="uniform", help="uniform, or lognormal:SIGMA (popularity of the experts)")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--json", metavar="FILE", help="write the results here")
    p.add_argument("--slow", action="store_true", help="also contenders that take half a minute per call, and the sweep of layers on CUDA")
    p.add_argument("--mkl-avx512", action="store_true", help="make MKL use AVX-512 on AMD")
    p.add_argument("--list", action="store_true", help="print the contenders and exit")
    p.add_argument("--serve", action="store_true", help="answer `run` lines on stdin")
    p.add_argument("--check", action="store_true", help="compare outputs instead of timing")
    args = p.parse_args()
    cuda = args.device == "cuda" or args.tiny
    if args.tiny and args.device == "cuda":
        p.error("--tiny: is for the CPU")
    whats = CUDA_WHATS if cuda else WHATS
    args.what = whats if args.what == "all" else tuple(args.what.split(","))
    unknown = [w for w in args.what if w not in whats]
    if unknown:
        p.error(f"--what {unknown[0]}: expected one of {', '.join(whats)}, all")
    args.dtype = (args.dtype or ("bf16" if cuda else "f32,bf16")).split(",")
    if not set(args.dtype) <= {"f32", "bf16"}:
        p.error(f"--dtype {','.join(args.dtype)}: expected f32, bf16 or f32,bf16")
    if not re.fullmatch(r"uniform|lognormal:\d*\.?\d+", args.routing):
        p.error(f"--routing {args.routing}: expected uniform or lognormal:SIGMA")
    try:
        args.threads = [int(t) for t in args.threads.split(",")]
        re.compile(args.filter)
    except (ValueError, re.error) as e:
        p.error(f"--threads / --filter: {e}")
    if min(args.threads) < 1 or args.rounds < 1:
        p.error("--threads and --rounds: expected positive numbers")
    return args


def preload_mkl_shim():
    """Build the shim and start again with it preloaded: MKL asks 'is this an Intel CPU' before any of our code runs."""
    folder = tempfile.mkdtemp(prefix="peer-mkl-")
    source, library = os.path.join(folder, "shim.c"), os.path.join(folder, "shim.so")
    with open(source, "w") as f:
        f.write(SHIM)
    subprocess.run([os.environ.get("CC", "cc"), "-O2", "-shared", "-fPIC", source, "-o", library], check=True)
    os.environ["LD_PRELOAD"] = " ".join(filter(None, [library, os.environ.get("LD_PRELOAD")]))
    os.environ["PEER_MKL_SHIM"] = folder
    os.execv(sys.executable, [sys.executable, *sys.argv])


def select(args, env):
    import importlib

    def of(what):
        if what in CUDA_OPS:
            return importlib.import_module("peer.gpu_ops").CASES[what](env)
        return importlib.import_module(f"peer.{what}").cases(env)

    cases = [c for w in args.what for c in of(w)]
    return [c for c in cases if c.dtype in args.dtype and re.search(args.filter, c.id)]


def main():
    args = parse_args()
    if args.mkl_avx512 and "PEER_MKL_SHIM" not in os.environ:
        preload_mkl_shim()
    if args.mkl_avx512:
        import shutil

        shutil.rmtree(os.environ["PEER_MKL_SHIM"], ignore_errors=True)  # mapped already
        os.environ.pop("LD_PRELOAD", None)  # the compilers that torch.compile starts do not need it
    # Libraries may print; the protocol keeps the real stdout for itself and the rest goes to stderr.
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    from peer import harness

    env = harness.Env(device=args.device, seed=args.seed, routing=args.routing, tiny=args.tiny)
    env.require_device()
    if env.suite == "cuda":  # a backward is run again and again on one graph: compiled ones must not reuse its buffers
        import torch._functorch.config

        torch._functorch.config.donated_buffer = False
    harness.set_threads(args.threads[0])
    cases = select(args, env)
    if args.list:
        for c in cases:
            print(json.dumps(c.describe()), file=out)
        return 0
    if not cases and not args.serve:
        print(f"no contender matches --what {','.join(args.what)} --filter {args.filter!r}", file=sys.stderr)
        return 2
    if args.serve:
        return harness.serve(cases, env, out)
    if not args.slow:
        cases = [c for c in cases if not c.slow and (not c.sweep or args.filter)]
    if args.check:
        return harness.check(cases, env, out)
    results, failed = [], 0
    for threads in args.threads:
        harness.set_threads(threads)
        for group in harness.groups(cases, args.device):
            rows = harness.measure(group, env, args.rounds)
            failed += sum("error" in r for r in rows)
            harness.print_rows(rows, out)
            results += rows
    if args.json:
        with open(args.json, "w") as f:
            json.dump({"meta": env.meta(), "results": results}, f, indent=1)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
