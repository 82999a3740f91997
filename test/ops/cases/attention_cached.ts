// Cases of attention_cached (csrc/ops/attention_cached.h).

import { at, colsOf, f32, filled, has, i32, list, number, out, rowsOf, strided, tensor, toBf16 } from "../host.ts";
import type { Args, HostTensor, Random } from "../host.ts";
import { perfCall } from "../perf.ts";
import type { Backend, PerfRow } from "../perf.ts";
import type { OpCase } from "../support.ts";
import { expectedAttention } from "./attention.ts";

interface Sequence {
  /** Tokens that are kept already, and new ones. */
  readonly kept: number;
  readonly fresh: number;
  /** Rows of its caches; absent: a few more than tokens. */
  readonly rows?: number;
}
interface Shape {
  readonly sequences: readonly Sequence[];
  readonly heads: number;
  readonly kvHeads?: number;
  readonly kDim: number;
  /** "of k": values are the first columns of the keys. */
  readonly vDim?: number;
  readonly ofKeys?: boolean;
  readonly shared?: number;
  readonly window?: number;
  readonly chunk?: number;
  readonly joint?: boolean;
  readonly bf16?: boolean;
  readonly cache?: "f32" | "bf16";
  readonly strided?: boolean;
  readonly sinks?: "f32" | "bf16" | number;
  readonly scale?: number;
}

const cached = (s: Shape) => {
  return (r: Random): Args => {
    const { heads, kvHeads = heads, kDim, vDim = kDim, shared = 0, window = 0, chunk = 0, cache = "f32" } = s;
    const T = s.sequences.reduce((n, { fresh }) => n + fresh, 0);
    const wrap = (t: HostTensor): HostTensor => (s.strided ? strided(t) : t);
    const start = s.sequences.flatMap(({ fresh }, i) => {
      const begin = s.sequences.slice(0, i).reduce((n, q) => n + q.fresh, 0);
      return Array.from({ length: fresh }, () => begin);
    });
    const rowsFor = ({ kept, fresh, rows }: Sequence): number => rows ?? kept + fresh + 3;
    const [before, after] = s.joint ? [2, 1] : [0, 0];
    return {
      q: wrap(r.normal([T, heads * (kDim + shared)])),
      k: wrap(r.normal([T, s.joint ? before + kvHeads * (kDim + vDim) + after : kvHeads * kDim])),
      v: s.ofKeys ? null : s.joint ? { same: "k" } : wrap(r.normal([T, kvHeads * vDim])),
      k_shared: shared ? wrap(r.normal([T, shared])) : null,
      sinks: typeof s.sinks === "number" ? filled("f32", [heads], { constant: s.sinks }) : s.sinks ? r.normal([heads], 2, s.sinks) : null,
      doc_start: i32(start),
      positions: i32(s.sequences.flatMap(({ kept, fresh }) => Array.from({ length: fresh }, (_, i) => kept + i))),
      k_cache: s.sequences.map((q) => r.normal([rowsFor(q), kvHeads * kDim + shared], 1, cache)),
      v_cache: s.ofKeys ? [] : s.sequences.map((q) => r.normal([rowsFor(q), kvHeads * vDim], 1, cache)),
      out: wrap(out([T, heads * vDim])),
      heads,
      kv_heads: kvHeads,
      k_dim: kDim,
      k_offset: before,
      k_stride: s.joint ? kDim + vDim : kDim,
      v_dim: vDim,
      v_offset: s.joint ? before + kDim : 0,
      v_stride: s.joint ? kDim + vDim : vDim,
      window,
      chunk,
      scale: s.scale ?? 1 / Math.sqrt(kDim + shared),
      precision: s.bf16 ? 1 : 0,
    };
  };
};

/** Every sequence written out whole and given to attention: what the ring does not hold any more may not be seen. */
function expected(a: Args): Record<string, Float64Array | Float64Array[]> {
  const [H, G, kd, vd] = [number(a, "heads"), number(a, "kv_heads"), number(a, "k_dim"), number(a, "v_dim")];
  const [chunk, positions, starts] = [number(a, "chunk"), tensor(a, "positions").values, tensor(a, "doc_start").values];
  const shared = has(a, "k_shared") ? colsOf(tensor(a, "k_shared")) : 0;
  const T = rowsOf(tensor(a, "q"));
  const result = new Float64Array(T * H * vd);
  const fresh = (name: "k" | "v", t: number, g: number, i: number): number =>
    at(tensor(a, name), t, number(a, `${name}_offset`) + g * number(a, `${name}_stride`) + i);
  const kCache = list(a, "k_cache").map((c) => Float64Array.from(c.values));
  const vCache = list(a, "v_cache").map((c) => Float64Array.from(c.values));
  const held = (of: HostTensor, x: number): number => (a.precision === 1 || of.dtype === "bf16" ? toBf16(x) : x);
  list(a, "k_cache").forEach((cache, i) => {
    const [C, width] = [rowsOf(cache), G * kd + shared];
    const mine = Array.from({ length: T }, (_, t) => t).filter((t) => [...new Set(Array.from(starts))].indexOf(starts[t]!) === i);
    for (const t of mine) {
      const row = positions[t]! % C;
      for (let g = 0; g < G; g++) {
        for (let c = 0; c < kd; c++) kCache[i]![row * width + g * kd + c] = held(cache, fresh("k", t, g, c));
        for (let c = 0; has(a, "v") && c < vd; c++) vCache[i]![row * G * vd + g * vd + c] = held(cache, fresh("v", t, g, c));
      }
      for (let c = 0; c < shared; c++) kCache[i]![row * width + G * kd + c] = held(cache, at(tensor(a, "k_shared"), t, c));
    }
    const L = positions[mine.at(-1)!]! + 1;
    const [q, k, v, ks] = [H * (kd + shared), G * kd, G * vd, shared].map((w) => new Float64Array(L * w)) as [
      Float64Array,
      Float64Array,
      Float64Array,
      Float64Array,
    ];
    for (let p = 0; p < L; p++) {
      const row = p % C;
      for (let c = 0; c < G * kd; c++) k[p * G * kd + c] = kCache[i]![row * width + c]!;
      for (let c = 0; c < shared; c++) ks[p * shared + c] = kCache[i]![row * width + G * kd + c]!;
      for (let c = 0; c < G * vd; c++) v[p * G * vd + c] = has(a, "v") ? vCache[i]![row * G * vd + c]! : kCache[i]![row * width + c]!;
    }
    for (const t of mine) for (let c = 0; c < H * (kd + shared); c++) q[positions[t]! * H * (kd + shared) + c] = at(tensor(a, "q"), t, c);
    const whole = expectedAttention(
      {
        ...a,
        q: f32([L, H * (kd + shared)], q),
        k: f32([L, G * kd], k),
        v: f32([L, G * vd], v),
        k_shared: shared ? f32([L, shared], ks) : null,
        k_offset: 0,
        k_stride: kd,
        v_offset: 0,
        v_stride: vd,
        doc_start: i32(Array.from({ length: L }, (_, p) => (chunk ? p - (p % chunk) : 0))),
      },
      positions[mine[0]!]!,
    );
    for (const t of mine) result.set(whole.out.subarray(positions[t]! * H * vd, (positions[t]! + 1) * H * vd), t * H * vd);
  });
  return { out: result, k_cache: kCache, v_cache: vCache };
}

const one = (kept: number, fresh = 1, rows?: number): Sequence => ({ kept, fresh, ...(rows === undefined ? {} : { rows }) });
const shapes: readonly (readonly [string, Shape])[] = [
  ["the first token", { sequences: [one(0)], heads: 2, kDim: 16 }],
  ["one token", { sequences: [one(20)], heads: 4, kDim: 32 }],
  ["one token, grouped heads", { sequences: [one(37)], heads: 6, kvHeads: 2, kDim: 20 }],
  ["several sequences", { sequences: [one(3), one(0), one(70), one(17)], heads: 4, kvHeads: 2, kDim: 16 }],
  ["a prompt in pieces", { sequences: [one(9, 12)], heads: 4, kvHeads: 1, kDim: 16 }],
  ["prompts and single tokens", { sequences: [one(0, 5), one(30), one(8, 7)], heads: 5, kvHeads: 1, kDim: 8 }],
  ["several stretches", { sequences: [one(1300), one(511), one(512, 3)], heads: 4, kvHeads: 2, kDim: 24 }],
  ["many rows of several stretches", { sequences: [one(600, 30)], heads: 4, kvHeads: 4, kDim: 8 }],
  ["v wider than k", { sequences: [one(25), one(2)], heads: 2, kDim: 8, vDim: 72 }],
  ["k wider than v", { sequences: [one(25)], heads: 3, kDim: 40, vDim: 17 }],
  ["one dimension", { sequences: [one(11)], heads: 2, kDim: 1 }],
  ["no tokens", { sequences: [], heads: 2, kDim: 8 }],
  ["shared rotary keys", { sequences: [one(30), one(4, 2)], heads: 4, kDim: 16, shared: 8 }],
  ["shared rotary keys, k and v in one buffer", { sequences: [one(37, 2)], heads: 4, kDim: 24, vDim: 16, shared: 10, joint: true }],
  ["latent: values of the keys", { sequences: [one(40), one(7, 3)], heads: 4, kvHeads: 1, kDim: 64, shared: 16, ofKeys: true }],
  ["latent, fewer values", { sequences: [one(40)], heads: 3, kvHeads: 1, kDim: 40, vDim: 33, shared: 5, ofKeys: true }],
  ["latent, 512 wide", { sequences: [one(20)], heads: 16, kvHeads: 1, kDim: 512, shared: 64, ofKeys: true }],
  ["window in a ring", { sequences: [one(50, 1, 9), one(4, 1, 9), one(8, 1, 9)], heads: 2, kDim: 16, window: 9 }],
  ["window in a ring, several tokens", { sequences: [one(50, 4, 12)], heads: 4, kvHeads: 2, kDim: 16, window: 9 }],
  ["window in a large ring, two stretches", { sequences: [one(700, 2, 601)], heads: 2, kDim: 8, window: 600 }],
  ["window of one", { sequences: [one(9, 1, 1)], heads: 2, kDim: 16, window: 1 }],
  ["chunks", { sequences: [one(21), one(16), one(5, 14)], heads: 2, kDim: 16, chunk: 8 }],
  ["chunks in a ring", { sequences: [one(21, 1, 8), one(23, 1, 8), one(24, 1, 8)], heads: 2, kDim: 16, chunk: 8 }],
  ["window and chunks", { sequences: [one(29, 2, 7)], heads: 2, kDim: 16, chunk: 16, window: 6 }],
  ["sinks", { sequences: [one(33), one(0)], heads: 3, kDim: 16, sinks: "f32" }],
  ["sinks, grouped, window", { sequences: [one(90, 2, 33)], heads: 8, kvHeads: 1, kDim: 16, window: 32, sinks: "bf16" }],
  ["sinks above all scores", { sequences: [one(20)], heads: 2, kDim: 16, sinks: 30 }],
  ["sinks that are not there", { sequences: [one(20)], heads: 2, kDim: 16, sinks: -Infinity }],
  ["strided", { sequences: [one(20, 3)], heads: 3, kDim: 13, vDim: 7, shared: 3, strided: true }],
  ["negative scale", { sequences: [one(40)], heads: 2, kDim: 16, scale: -0.4 }],
  ["groups of many heads", { sequences: [one(70, 3), one(5)], heads: 40, kvHeads: 2, kDim: 8 }],
  ["wide heads", { sequences: [one(70, 2)], heads: 2, kDim: 200, vDim: 150 }],
  ["a hundred sequences", { sequences: Array.from({ length: 100 }, (_, i) => one(i % 7)), heads: 2, kDim: 4 }],
  ["latent, 512 wide, many heads, bf16 cache", { sequences: [one(530), one(3)], heads: 20, kvHeads: 1, kDim: 512, shared: 64, ofKeys: true, cache: "bf16" }], // prettier-ignore
  ["bf16 cache", { sequences: [one(40), one(600)], heads: 4, kvHeads: 2, kDim: 32, cache: "bf16" }],
  ["bf16 cache, latent, unaligned", { sequences: [one(21)], heads: 3, kvHeads: 1, kDim: 21, shared: 6, ofKeys: true, cache: "bf16" }],
  ["bf16 compute", { sequences: [one(40), one(3, 4)], heads: 4, kvHeads: 2, kDim: 32, cache: "bf16", bf16: true }],
  ["bf16 compute, f32 cache", { sequences: [one(40)], heads: 4, kvHeads: 2, kDim: 32, bf16: true, sinks: "f32" }],
];
const row = (name: string, s: Shape, change: Args = {}): OpCase => ({
  op: "attention_cached",
  name,
  args: (r) => ({ ...cached(s)(r), ...change }),
  k: s.kDim + (s.shared ?? 0) + Math.max(1, ...s.sequences.map(({ kept, fresh }) => kept + fresh)),
  expected: (a) => {
    const { out: made, ...caches } = expected(a);
    return has(a, "out") ? { out: made!, ...caches } : caches;
  },
  // Probabilities are rounded against another maximum in every implementation.
  ...(s.bf16 ? { eps: { out: "bf16" } as const } : {}),
});
export const cachedCases: readonly OpCase[] = [
  ...shapes.map(([name, s]) => row(name, s)),
  row("rows that are stored and no more", { sequences: [one(0, 9), one(3, 2)], heads: 4, kvHeads: 2, kDim: 8, shared: 2 }, { out: null }),
];
export const cachedBase: OpCase = row("base", {
  sequences: [one(3, 2), one(0)],
  heads: 4,
  kvHeads: 2,
  kDim: 3,
  vDim: 2,
  shared: 1,
  sinks: "f32",
});

// ---- performance ------------------------------------------------------------------------------------------------------

interface PerfSizes extends Record<string, number> {
  /** Sequences, and tokens that each has kept. */
  readonly B: number;
  readonly S: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly qk: number;
  readonly shared: number;
  readonly latent: number;
}
/** Bound by the bytes of the caches. */
function perf(on: Backend, name: string, cache: "f32" | "bf16", sizes: PerfSizes): PerfRow {
  return perfCall(
    `attention_cached/${name}-S${sizes.S}-B${sizes.B}/${on === "cuda" ? "bf16" : cache}/fwd`,
    on,
    sizes,
    "attention_cached",
    ({ B, S, heads, kvHeads, qk, shared, latent }, r) =>
      cached({
        sequences: Array.from({ length: B }, () => one(S)),
        heads,
        kvHeads: Math.min(kvHeads, heads),
        kDim: qk,
        shared,
        ofKeys: latent > 0,
        cache,
        bf16: on === "cuda",
      })(r),
    ({ B, S, heads, kvHeads, qk, shared, latent }) => ({
      bytes: B * (S + 1) * (Math.min(kvHeads, heads) * qk * (latent ? 1 : 2) + shared) * (cache === "bf16" ? 2 : 4),
      flops: B * (S + 1) * heads * (4 * qk + 2 * shared),
      tokens: B,
    }),
  );
}
const olmoe = { heads: 16, kvHeads: 16, qk: 128, shared: 0, latent: 0 };
const grouped = { heads: 32, kvHeads: 4, qk: 128, shared: 0, latent: 0 };
const latent = { heads: 16, kvHeads: 1, qk: 512, shared: 64, latent: 1 };
export const cachedPerf: readonly PerfRow[] = [
  perf("cpu", "hd128", "f32", { ...olmoe, B: 1, S: 1024 }),
  perf("cpu", "hd128", "bf16", { ...olmoe, B: 1, S: 1024 }),
  perf("cpu", "hd128", "bf16", { ...olmoe, B: 8, S: 1024 }),
  perf("cpu", "hd128-G8", "bf16", { ...grouped, B: 1, S: 8192 }),
  perf("cpu", "latent512", "bf16", { ...latent, B: 1, S: 4096 }),
  perf("cuda", "hd128", "bf16", { ...olmoe, B: 8, S: 4096 }),
  perf("cuda", "hd128-G8", "bf16", { ...grouped, B: 8, S: 8192 }),
  perf("cuda", "latent512", "bf16", { ...latent, B: 8, S: 4096 }),
];
