"""The clocks of contenders, and the three ways to run them: measure, check, serve."""
import gc
import json
import logging
import statistics
import sys
import time
import warnings
from contextlib import nullcontext

import torch

CHECK_BOUND = {"f32": 1e-5, "bf16": 2e-2}  # relative L2; ten times that for steps: near ties route differently
ROUND_S = 2e-3  # calls faster than this are repeated inside one round: the clock and Python must not be what is timed
WARM_CALLS = 3
warnings.simplefilter("ignore")  # graph breaks and fallbacks inside transformers are what is measured, not news
torch._logging.set_logs(all=logging.ERROR)
torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 4096  # many shapes, one process
PINNED = "ceiling"  # contenders that are measured all through a run: never dropped
KEPT_GROUPS = 2  # groups of contenders that stay set up while serving (their weights take gigabytes)


class Contender:
    """A variant that is set up and warm. Set-up, compilation and warm-up calls are outside every measured time."""

    def __init__(self, variant, env):
        self.variant, self.env, self.extra = variant, env, {}
        # A stream of its own: a backward runs where its forward ran, and the default stream cannot be recorded.
        self.stream = torch.cuda.Stream() if env.device == "cuda" else None
        start = time.perf_counter()
        env.sync()
        with self.on_stream():
            self.body = variant.make(env)
            self.submit, self.each = self.body.run, 1
            last = self.warm(start)
            if self.stream:
                self.extra["extra_bytes"] = self.peak()
        self.calls = max(1, min(1000, round(ROUND_S / last)))
        if self.stream and variant.graph:
            self.extra["eager_ms"] = statistics.median(self.round()[0] for _ in range(10))
            self.record()
            last = self.warm(start)
            self.calls = max(1, min(1000, round(ROUND_S / last)))
        self.setup_s = time.perf_counter() - start

    def on_stream(self):
        return torch.cuda.stream(self.stream) if self.stream else nullcontext()

    def warm(self, start):
        for _ in range(WARM_CALLS):
            self.env.sync()
            t = time.perf_counter()
            self.submit()
            self.env.sync()
            last = time.perf_counter() - t
            if time.perf_counter() - start > 60 and last > 5:  # slow for good, not compiling: once is warm enough
                break
        return last

    def peak(self):
        """Bytes that a call takes beyond what is there before it."""
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        self.submit()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    def record(self):
        """One CUDA graph of a call on every set of buffers."""
        runs = getattr(self.body, "runs", [self.body.run])
        self.env.sync()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self.stream):
                for run in runs:
                    run()
        except Exception as e:  # it synchronises, or allocates outside the pool: eager it stays
            torch.cuda.synchronize()
            self.extra["graph"] = f"{type(e).__name__}: {str(e).splitlines()[0][:200]}"
            return
        self.submit, self.each = graph.replay, len(runs)

    def round(self):
        self.env.sync()
        with self.on_stream():
            wall, cpu = (self.by_events if self.stream else self.by_clock)()
        n = self.calls * self.each
        return wall * 1e3 / n, cpu * 1e3 / n

    def by_events(self):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        cpu = time.thread_time()
        begin.record()
        for _ in range(self.calls):
            self.submit()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3, time.thread_time() - cpu

    def by_clock(self):
        submit, calls = self.submit, range(self.calls)
        wall, cpu = time.perf_counter(), time.thread_time()
        for _ in calls:
            submit()
        cpu, wall = time.thread_time() - cpu, time.perf_counter() - wall
        return wall, cpu

    def row(self, times):
        ms, cpu = [t[0] for t in times], [t[1] for t in times]
        case = self.variant.case
        return {**self.variant.describe(), "threads": torch.get_num_threads(), "calls": self.calls,
                "setup_s": round(self.setup_s, 3), "ms": ms, "cpu_ms": cpu, **summary(ms, case),
                "gflops_cpu_p90": case.flops / max(tenth(cpu), 1e-9) / 1e6, **self.extra, **self.facts()}  # by CPU time: means something at one thread


    def facts(self):
        facts = getattr(self.body, "facts", None)
        return {"facts": facts} if facts else {}


def tenth(ms):
    """The time that one round in ten beats: the p90 of rates."""
    return sorted(ms)[-(-len(ms) // 10) - 1]


def summary(ms, case):
    median, best, p90 = statistics.median(ms), min(ms), tenth(ms)
    out = {"median_ms": median, "best_ms": best, "gflops": case.flops / median / 1e6,
           "gflops_p90": case.flops / p90 / 1e6}
    if case.tokens:
        out.update(tok_s=case.tokens / median * 1e3, tok_s_best=case.tokens / best * 1e3)
    return out


def failure(variant_id, e):
    return {"id": variant_id, "error": {"type": type(e).__name__, "message": str(e).strip()[:500]}}


def set_threads(n):
    torch.set_num_threads(n)


def groups(variants, device="cpu"):
    """What is set up together and interleaved. A GPU holds the graphs of one mode, and one model at a time."""
    found = {}
    for v in variants:
        key = v.case.group if device == "cpu" else v.id if v.case.what == "step" else v.case.id
        found.setdefault(key, []).append(v)
    return list(found.values())


def set_up(variants, env):
    """Contenders of a group, and error rows for those that this machine or this torch cannot run."""
    ready, errors = [], []
    for variant in variants:
        print(f"  setting up {variant.id}", file=sys.stderr)
        try:
            ready.append(Contender(variant, env))
        except Exception as e:  # a contender that cannot run is a result too
            errors.append(failure(variant.id, e))
    return ready, errors


def release(env, group):
    env.shared.pop(group, None)
    gc.collect()
    if env.device == "cuda":
        torch.cuda.empty_cache()


def measure(variants, env, rounds):
    ready, errors = set_up(variants, env)
    times = {c.variant.id: [] for c in ready}
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for c in ready:
                times[c.variant.id].append(c.round())
    finally:
        gc.enable()
    rows = [c.row(times[c.variant.id]) for c in ready] + errors
    for case_id in {c.variant.case.id for c in ready}:
        same = [r for r in rows if "ms" in r and "other" not in r and r["id"].startswith(f"{case_id}/")]
        if same:
            min(same, key=lambda r: r["median_ms"])["fastest"] = True
    ready.clear()
    release(env, variants[0].case.group)
    return rows


def print_rows(rows, out):
    for r in rows:
        if "error" in r:
            print(f"{r['id']:<52} {r['error']['type']}: {r['error']['message'].splitlines()[0][:100]}", file=out)
            continue
        rate = f"{r['tok_s']:>12,.0f} tok/s ({r['tok_s_best']:,.0f})" if r["tokens"] else ""
        print(f"{r['id']:<52} {r['threads']}T {r['median_ms']:>10.3f} ms {r['gflops']:>9.1f} GF/s"
              f" (p90 {r['gflops_p90']:.1f}){rate}{'  fastest' if r.get('fastest') else ''}", file=out)


def rel_l2(a, b):
    a, b = a.detach().double().cpu(), b.detach().double().cpu()
    return ((a - b).norm() / b.norm().clamp_min(1e-300)).item() if a.numel() else 0.0


def check(variants, env, out):
    """Outputs of every contender against the first one of its case, in relative L2."""
    bad = 0
    for group in groups(variants):  # one contender at a time is alive
        reference = {}
        for variant in group:
            case = variant.case
            try:
                body = variant.make(env)
                got = [t.detach().clone() for t in body.outputs()]
            except Exception as e:
                print(f"{variant.id:<52} {type(e).__name__}: {str(e).strip().splitlines()[0][:120]}", file=out)
                bad += 1
                continue
            want = reference.setdefault(case.id, got)
            errors = [rel_l2(g, w) for g, w in zip(got, want, strict=True)]
            bound = CHECK_BOUND["bf16" if variant.other else case.dtype]
            ok = max(errors) < bound * (10 if case.what == "step" else 1)
            bad += not ok
            print(f"{variant.id:<52} {' '.join(f'{e:.1e}' for e in errors)}  {'ok' if ok else 'WRONG'}", file=out)
        release(env, group[0].case.group)
    return 1 if bad else 0


def serve(variants, env, out):
    by_id, ready, recent = {v.id: v for v in variants}, {}, []
    say = lambda value: print(json.dumps(value), file=out, flush=True)
    say({"ready": True, **env.meta()})

    def drop(group):
        for variant_id in [i for i, c in ready.items() if c.variant.case.group == group]:
            del ready[variant_id]
        recent.remove(group)
        release(env, group)

    def run(variant_id, rounds, threads=None):
        if variant_id not in by_id:
            raise KeyError(f"no contender {variant_id}; `list` names those of these cases, --what, --dtype and --filter")
        rounds = int(rounds)
        if threads is not None and int(threads) != torch.get_num_threads():
            set_threads(int(threads))
        case = by_id[variant_id].case
        if case.group in recent:
            recent.remove(case.group)
        if case.what != PINNED:
            recent.append(case.group)
        for group in recent[:-KEPT_GROUPS]:
            drop(group)
        if variant_id not in ready:
            ready[variant_id] = Contender(by_id[variant_id], env)
        gc.collect()
        gc.disable()
        try:
            times = [ready[variant_id].round() for _ in range(rounds)]
        finally:
            gc.enable()
        return ready[variant_id].row(times) if times else {"id": variant_id, "ms": [], "cpu_ms": []}

    for line in sys.stdin:
        words = line.split()
        if not words:
            continue
        command, *rest = words
        try:
            if command == "run":
                if len(rest) not in (2, 3):
                    raise ValueError(f"expected `run <id> <rounds> [threads]`, got {line.strip()!r}")
                say(run(*rest))
            elif command == "list":
                say({"list": [v.describe() for v in variants]})
            elif command == "drop":
                n = len(ready)
                for group in list(recent):
                    drop(group)
                say({"dropped": n})
            elif command == "quit":
                break
            else:
                raise ValueError(f"unknown command {command!r}; expected run, list, drop or quit")
        except Exception as e:
            say(failure(rest[0] if rest else "", e))
    return 0
