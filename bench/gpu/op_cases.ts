// Single ops on the shapes of DeepSeek-V2-Lite: activations bf16, weights bf16, training state f32.

import * as ops from "../../lib/ops.ts";
import type { AttentionLayout } from "../../lib/ops.ts";
import type { Tensor } from "../../lib/tensor.ts";
import { softmaxRule } from "../case.ts";
import type { Buffers, GpuCase, Work } from "./case.ts";
import type { Shapes } from "./shapes.ts";

const precision = "bf16";

function one(id: string, setup: (b: Buffers) => Work): GpuCase {
  return { id, headline: true, setup };
}

function copyCase([rows, cols]: readonly [number, number]): GpuCase {
  return one("copy/1GiB/bf16/copy", (b) => {
    const x = b.normal("bf16", [rows, cols]);
    const y = b.bf16(rows, cols);
    return { run: () => ops.cast(b.device, { x, y }), outputs: [y], bytes: 2 * x.bytes };
  });
}

function gemmCases(sizes: Shapes["gemm"]): GpuCase[] {
  return sizes.flatMap(([K, N, M]) => {
    const cost = { flops: 2 * M * N * K, bytes: 2 * (M * K + N * K + M * N) };
    return [
      one(`gemm/${K}x${N}/bf16/M${M}`, (b) => {
        const [x, w, y] = [b.normal("bf16", [M, K]), b.normal("bf16", [N, K], K ** -0.5), b.bf16(M, N)];
        return { run: () => ops.gemm(b.device, "nt", { a: x, b: w, c: y, precision }), outputs: [y], ...cost };
      }),
      one(`gemm/${K}x${N}/bf16/M${M}-nn`, (b) => {
        const [dy, w, dx] = [b.normal("bf16", [M, N]), b.normal("bf16", [N, K], N ** -0.5), b.bf16(M, K)];
        return { run: () => ops.gemm(b.device, "nn", { a: dy, b: w, c: dx, precision }), outputs: [dx], ...cost };
      }),
    ];
  });
}

/** Documents of S tokens. Unequal widths as MLA has them: k and v interleaved in one buffer, the rotary part of the keys shared. */
function attentionCases({ dims, shared, S, B, heads }: Shapes["attention"]): GpuCase[] {
  const T = B * S;
  return dims.flatMap(([qk, v]) => {
    const mla = qk !== v;
    const nope = mla ? qk - shared : qk;
    const layout: AttentionLayout = {
      heads,
      kvHeads: heads,
      kDim: nope,
      kOffset: 0,
      kStride: mla ? nope + v : nope,
      vDim: v,
      vOffset: mla ? nope : 0,
      vStride: mla ? nope + v : v,
      window: 0,
      scale: qk ** -0.5,
    };
    const make = (b: Buffers, backward: boolean): Work => {
      const { device } = b;
      const kvPair = (): { k: Tensor; v: Tensor } => {
        if (!mla) return { k: b.normal("bf16", [T, heads * qk]), v: b.normal("bf16", [T, heads * v]) };
        const kv = b.normal("bf16", [T, heads * (nope + v)]);
        return { k: kv, v: kv };
      };
      const input = { q: b.normal("bf16", [T, heads * qk]), ...kvPair(), kShared: mla ? b.normal("bf16", [T, shared]) : null };
      const docStart = b.ints(
        [T],
        Int32Array.from({ length: T }, (_, t) => t - (t % S)),
      );
      const [out, lse] = [b.bf16(T, heads * v), b.f32(T, heads)];
      const forward = (): void => ops.attention(device, { ...input, docStart, out, lse, layout, precision });
      // Causal: half of S² for the scores and half for the values; backward: the scores again, dV, dP, dQ and dK.
      const pairs = B * heads * S * S;
      if (!backward) return { run: forward, outputs: [out, lse], flops: pairs * (qk + v), tokens: T };
      forward();
      const dout = b.normal("bf16", [T, heads * v]);
      const dq = b.bf16(T, heads * qk);
      const dk = b.bf16(T, heads * (mla ? nope + v : qk));
      const dv = mla ? dk : b.bf16(T, heads * v);
      const dkShared = mla ? b.bf16(T, shared) : null;
      return {
        run: () => ops.attentionBackward(device, { ...input, dout, docStart, out, lse, dq, dk, dv, dkShared, layout, precision }),
        outputs: [dq, dk, ...(mla ? [] : [dv]), ...(dkShared ? [dkShared] : [])],
        flops: pairs * (3 * qk + 2 * v),
        tokens: T,
      };
    };
    const config = `attention/${qk === v ? `hd${qk}` : `hd${qk}v${v}`}-S${S}/bf16`;
    return [one(`${config}/fwd`, (b) => make(b, false)), one(`${config}/bwd`, (b) => make(b, true))];
  });
}

/** Loss and dX of a frozen head; every row is supervised. */
function headCase({ N, D, V }: Shapes["head"]): GpuCase {
  return one(`head/d${D}-V${V}/bf16/train`, (b) => {
    const [x, w, dx] = [b.normal("bf16", [N, D]), b.normal("bf16", [V, D], D ** -0.5), b.bf16(N, D)];
    const labels = b.ints(
      [N],
      Int32Array.from({ length: N }, (_, t) => (t * 7919) % V),
    );
    const [loss, correct] = [b.empty("f64", [1]), b.empty("i64", [1])];
    return {
      run: () => ops.linearCrossEntropy(b.device, { x, w, labels, loss, correct, dx, gradScale: 1 / N, precision }),
      outputs: [dx],
      state: [loss, correct],
      reset: () => {
        ops.fill(b.device, { x: loss, value: 0 });
        ops.fill(b.device, { x: correct, value: 0 });
      },
      flops: 4 * N * D * V,
      tokens: N,
    };
  });
}

function rowCases({ norm, rope, swiglu, routing, combine }: Shapes): GpuCase[] {
  const { T, D } = norm;
  return [
    one(`rms_norm/${T}x${D}/bf16/fwd`, (b) => {
      const [x, weight, y, rstd] = [b.normal("bf16", [T, D]), b.normal("bf16", [D]), b.bf16(T, D), b.f32(T)];
      return { run: () => ops.rmsNorm(b.device, { x, weight, y, rstd, eps: 1e-6 }), outputs: [y, rstd], bytes: T * (4 * D + 4) };
    }),
    one(`rms_norm/${T}x${D}/bf16/bwd`, (b) => {
      const [x, weight, y, rstd] = [b.normal("bf16", [T, D]), b.normal("bf16", [D]), b.bf16(T, D), b.f32(T)];
      const [dy, dx] = [b.normal("bf16", [T, D]), b.bf16(T, D)];
      ops.rmsNorm(b.device, { x, weight, y, rstd, eps: 1e-6 });
      return { run: () => ops.rmsNormBackward(b.device, { dy, x, weight, rstd, dx }), outputs: [dx], bytes: T * (6 * D + 4) };
    }),
    one(`rope/${rope.T}x${rope.heads}x${rope.dim}/bf16/fwd`, (b) => {
      const width = rope.heads * rope.dim;
      const [x, y] = [b.normal("bf16", [rope.T, width]), b.bf16(rope.T, width)];
      const [cos, sin] = [b.normal("f32", [rope.T, rope.dim / 2]), b.normal("f32", [rope.T, rope.dim / 2])];
      const positions = b.ints(
        [rope.T],
        Int32Array.from({ length: rope.T }, (_, t) => t),
      );
      return {
        run: () => ops.rope(b.device, { x, positions, cos, sin, y, heads: rope.heads }),
        outputs: [y],
        bytes: 2 * x.bytes + cos.bytes + sin.bytes,
      };
    }),
    one(`swiglu/${swiglu.T}x${swiglu.F}/bf16/fwd`, (b) => {
      const [h, a] = [b.normal("bf16", [swiglu.T, 2 * swiglu.F]), b.bf16(swiglu.T, swiglu.F)];
      return { run: () => ops.swiglu(b.device, { h, a }), outputs: [a], bytes: h.bytes + a.bytes };
    }),
    one(`swiglu/${swiglu.T}x${swiglu.F}/bf16/bwd`, (b) => {
      const [h, da, dh] = [
        b.normal("bf16", [swiglu.T, 2 * swiglu.F]),
        b.normal("bf16", [swiglu.T, swiglu.F]),
        b.bf16(swiglu.T, 2 * swiglu.F),
      ];
      return { run: () => ops.swigluBackward(b.device, { h, da, dh }), outputs: [dh], bytes: 2 * h.bytes + da.bytes };
    }),
    one(`add/${T}x${D}/bf16/fwd`, (b) => {
      const [x, z, y] = [b.normal("bf16", [T, D]), b.normal("bf16", [T, D]), b.bf16(T, D)];
      return { run: () => ops.add(b.device, { a: x, b: z, y }), outputs: [y], bytes: 3 * x.bytes };
    }),
    // Logits to everything the expert products and a profile need: topk_route, expert_sort, count_experts.
    one(`routing/T${routing.T}-E${routing.E}-K${routing.K}/bf16/fwd`, (b) => {
      const { E, K } = routing;
      const n = routing.T * K;
      const logits = b.normal("f32", [routing.T, E]);
      const [ids, weights, probs] = [b.empty("i32", [routing.T, K]), b.f32(routing.T, K), b.f32(routing.T, E)];
      const [offsets, tokens, pos, gate] = [b.empty("i32", [E + 1]), b.empty("i32", [n]), b.empty("i32", [routing.T, K]), b.f32(n)];
      const [counts, gateSums] = [b.empty("i64", [E]), b.empty("f64", [E])];
      return {
        run: () => {
          ops.topkRoute(b.device, { logits, ids, weights, probs, rule: softmaxRule });
          ops.expertSort(b.device, { ids, weights, offsets, tokens, pos, gate });
          ops.countExperts(b.device, { ids, weights, counts, gateSums });
        },
        outputs: [ids, weights, probs, offsets, tokens, pos, gate],
        state: [counts, gateSums],
        reset: () => {
          ops.fill(b.device, { x: counts, value: 0 });
          ops.fill(b.device, { x: gateSums, value: 0 });
        },
        bytes: 2 * logits.bytes + n * (8 + 12),
        tokens: routing.T,
      };
    }),
    one(`combine/T${combine.T}-K${combine.K}-D${combine.D}/bf16/fwd`, (b) => {
      const n = combine.T * combine.K;
      const x = b.normal("bf16", [n, combine.D]);
      // A permutation: 8191 is prime and does not divide n.
      const pos = b.ints(
        [combine.T, combine.K],
        Int32Array.from({ length: n }, (_, i) => (i * 8191) % n),
      );
      const [weights, y] = [b.normal("f32", [combine.T, combine.K]), b.bf16(combine.T, combine.D)];
      return {
        run: () => ops.combine(b.device, { x, pos, weights, y }),
        outputs: [y],
        bytes: x.bytes + y.bytes + 8 * n,
        tokens: combine.T,
      };
    }),
  ];
}

/** Master, gradient, two moments in f32 and the bf16 copy that products read: 30 bytes per parameter. */
function optimizerCases({ state: { name, matrices, rows, cols } }: Shapes): GpuCase[] {
  const n = matrices * rows * cols;
  return [
    one(`adamw/${name}/bf16/step`, (b) => {
      const grads = b.stack("f32", matrices, rows, cols, 0.01);
      const params = b.stack("f32", matrices, rows, cols, null);
      const [m, v] = [b.stack("f32", matrices, rows, cols, null), b.stack("f32", matrices, rows, cols, null)];
      const copies = b.stack("bf16", matrices, rows, cols, null);
      const place = b.place;
      const reset = (): void => {
        b.fillNormal(params.flat, 0.02, place);
        for (const t of [m, v]) ops.fill(b.device, { x: t.flat, value: 0 });
      };
      reset();
      const lists = {
        params: b.list(params.items),
        grads: b.list(grads.items),
        m: b.list(m.items),
        v: b.list(v.items),
        copies: b.list(copies.items),
      };
      const settings = { maxNorm: 0, lr: 1e-5, beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.1, step: 1 };
      return {
        run: () => ops.adamw(b.device, { ...lists, ...settings }),
        outputs: [copies.flat],
        state: [params.flat, m.flat, v.flat],
        reset,
        bytes: 30 * n,
      };
    }),
    one(`grad_norm/${name}/bf16/norm`, (b) => {
      const grads = b.list([b.normal("f32", [n], 0.01)]);
      const norm = b.empty("f64", [1]);
      return { run: () => ops.gradNorm(b.device, { grads, norm }), outputs: [norm], bytes: 4 * n };
    }),
  ];
}

export function gpuOpCases(shapes: Shapes): GpuCase[] {
  return [
    copyCase(shapes.copy),
    ...gemmCases(shapes.gemm),
    ...attentionCases(shapes.attention),
    headCase(shapes.head),
    ...rowCases(shapes),
    ...optimizerCases(shapes),
  ];
}
