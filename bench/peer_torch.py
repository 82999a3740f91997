#!/usr/bin/env python3
"""The PyTorch / transformers peer of `npm run bench`: the cases of bench/cases, as people write them in torch and as fast as it allows.

One shot: interleaved rounds of every contender of a case, one table, the fastest marked
    python bench/peer_torch.py --what layer,step --rounds 20 --json peer.json
    python bench/peer_torch.py --what gemm --threads 1,2 --filter 'f32.*(linear|dnn)'
    python bench/peer_torch.py --what layer --check          every contender against the reference contender
    python bench/peer_torch.py --list                        one JSON object per contender: id, flops, tokens, sizes

Serve: slices of rounds on request, so that another process can alternate with torch inside the same minutes
    python bench/peer_torch.py --serve --threads 2
    stdout  {"ready": true, "torch": "2.11.0", ...}
    stdin   run <id> <rounds> [threads]     -> {"id": .., "ms": [..], "cpu_ms": [..], "calls": .., "setup_s": .., ..}
            list | drop | quit              -> {"list": [..]} | {"dropped": n} | (exit)
    A contender is set up and warmed on its first `run`; setup_s says how long that took and is never part of `ms`.
    A failed command answers {"id": .., "error": {"type": .., "message": ..}}. Only JSON is printed on stdout.

Cases come from `npm run bench -- --describe` (names, sizes, flops), which is run with node unless --cases names a file that holds its
output, or - for the first line of stdin. An id has five parts, the name of a case and a variant: what/config/dtype/mode/variant.
    gemm/2048x1408/f32/M192/dnn-packed       K x N, M rows: F.linear, oneDNN with plain and prepacked weights
    layer/d256/f32/esft/hand-dnn-compile     hf-eager, hf-grouped, loop, hand-*
    attention/hd64-S512/bf16/bwd/sdpa        causal
    head/d256-V8192/f32/train/chunk-compile  linear + cross-entropy + dX
`ms` is wall time per call; `cpu_ms` is the calling thread's CPU time per call (the fair clock at one thread).
Weights and data come from fixed seeds. Threads: --threads. bench/PEERS.md says what is fair about each peer.

--mkl-avx512 talks MKL into its AVX-512 kernels on CPUs that are not Intel's (a two-line shim, needs cc): "MKL*".
--device cuda runs the contenders of `npm run bench -- --device cuda` in bf16, timed by CUDA events; calls of some microseconds as
replayed CUDA graphs, their eager time beside it.
--tiny makes every size small and runs the contenders of either device on the CPU: it proves the paths and measures nothing.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
OPS = ("ceiling", "copy", "rms_norm", "rope", "swiglu", "add", "routing", "combine", "adamw", "grad_norm")  # peer/ops.py
WHATS = ("gemm", "attention", "gated_delta_rule", "head", *OPS, "step", "grouped", "layer")
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SHIM = "int mkl_serv_intel_cpu_true(void) { return 1; }\nint mkl_serv_intel_cpu(void) { return 1; }\n"


def parse_args():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--cases", metavar="FILE", help="the cases as JSON; default: node asks bench/main.ts for them")
    p.add_argument("--what", default="all", help=f"comma-separated: {', '.join(WHATS)}, or all")
    p.add_argument("--filter", default="", help="regular expression on ids")
    p.add_argument("--rounds", type=int, default=20)
    p.add_argument("--threads", default=str(os.cpu_count() or 1), help="threads, or a comma-separated list (one shot)")
    p.add_argument("--device", choices=("cpu", "cuda"), help="whose cases, and where they run (cpu)")
    p.add_argument("--tiny", action="store_true", help="the same cases with small sizes, on the CPU")
    p.add_argument("--dtype", default="f32,bf16", help="f32, bf16 or f32,bf16")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--json", metavar="FILE", help="write the results here")
    p.add_argument("--slow", action="store_true", help="also contenders that take half a minute per call, and the sweep of layers on CUDA")
    p.add_argument("--mkl-avx512", action="store_true", help="make MKL use AVX-512 on AMD")
    p.add_argument("--list", action="store_true", help="print the contenders and exit")
    p.add_argument("--serve", action="store_true", help="answer `run` lines on stdin")
    p.add_argument("--check", action="store_true", help="compare outputs instead of timing")
    args = p.parse_args()
    if args.cases and (args.device or args.tiny):
        p.error("--cases: the file says the device and whether sizes are tiny; leave --device and --tiny out")
    args.what = WHATS if args.what == "all" else tuple(args.what.split(","))
    unknown = [w for w in args.what if w not in WHATS]
    if unknown:
        p.error(f"--what {unknown[0]}: expected one of {', '.join(WHATS)}, all")
    args.dtype = args.dtype.split(",")
    if not set(args.dtype) <= {"f32", "bf16"}:
        p.error(f"--dtype {','.join(args.dtype)}: expected f32, bf16 or f32,bf16")
    try:
        args.threads = [int(t) for t in args.threads.split(",")]
        re.compile(args.filter)
    except (ValueError, re.error) as e:
        p.error(f"--threads / --filter: {e}")
    if min(args.threads) < 1 or args.rounds < 1:
        p.error("--threads and --rounds: expected positive numbers")
    return args


def read_cases(args):
    """{"device": .., "tiny": .., "cases": [..]} as bench/main.ts --describe prints it."""
    try:
        if args.cases == "-":
            return json.loads(sys.stdin.readline())
        if args.cases:
            with open(args.cases) as f:
                return json.load(f)
        command = ["node", "--import", "tsx", "bench/main.ts", "--describe", "--device", args.device or "cpu"]
        asked = subprocess.run([*command, *(["--tiny"] if args.tiny else [])], cwd=ROOT, capture_output=True, text=True)
        if asked.returncode != 0:
            sys.exit(f"peer_torch.py: {' '.join(command)} failed: {asked.stderr.strip()}")
        return json.loads(asked.stdout)
    except (OSError, json.JSONDecodeError) as e:
        sys.exit(f"peer_torch.py: --cases: expected the output of `npm run bench -- --describe`: {e}")


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


def select(args, document, env):
    """The variants of every case that torch runs."""
    import importlib

    from peer.case import Case

    def of(case):
        return importlib.import_module("peer.ops" if case.what in OPS else f"peer.{case.what}").variants(case, env)

    cases = [Case(**c) for c in document["cases"] if c["what"] in args.what and c["dtype"] in args.dtype]
    return [v for case in cases for v in of(case) if re.search(args.filter, v.id)]


def main():
    args = parse_args()
    if args.mkl_avx512 and "PEER_MKL_SHIM" not in os.environ:
        preload_mkl_shim()
    if args.mkl_avx512:
        import shutil

        shutil.rmtree(os.environ["PEER_MKL_SHIM"], ignore_errors=True)  # mapped already
        os.environ.pop("LD_PRELOAD", None)  # the compilers that torch.compile starts do not need it
    document = read_cases(args)
    # Libraries may print; the protocol keeps the real stdout for itself and the rest goes to stderr.
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    from peer import harness
    from peer.case import Env

    suite, tiny = document["device"], document["tiny"]
    env = Env(device="cpu" if tiny else suite, suite=suite, seed=args.seed, tiny=tiny)
    env.require_device()
    if env.suite == "cuda":  # a backward is run again and again on one graph: compiled ones must not reuse its buffers
        import torch._functorch.config

        torch._functorch.config.donated_buffer = False
    harness.set_threads(args.threads[0])
    variants = select(args, document, env)
    if args.list:
        for v in variants:
            print(json.dumps(v.describe()), file=out)
        return 0
    if not variants and not args.serve:
        print(f"no contender matches --what {','.join(args.what)} --filter {args.filter!r}", file=sys.stderr)
        return 2
    if args.serve:
        return harness.serve(variants, env, out)
    if not args.slow:
        variants = [v for v in variants if not v.slow and (v.case.headline or args.filter)]
    if args.check:
        return harness.check(variants, env, out)
    results, failed = [], 0
    for threads in args.threads:
        harness.set_threads(threads)
        for group in harness.groups(variants, env.device):
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
