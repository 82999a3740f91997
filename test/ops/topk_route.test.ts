// Routing on every instruction set against the reference (loops), bits against threads, the reference against plain JavaScript and
// finite differences, refusals. No GPU. Alone: npx vitest run test/ops/topk_route.test.ts

import { describe, expect, it } from "vitest";
import {
  backwardRules,
  balanceBase,
  balanceCases,
  plain,
  route,
  routeBackward,
  routeBackwardBase,
  routeBackwardCases,
  routeBase,
  routeCases,
} from "./cases/routing.ts";
import type { Rule } from "./cases/routing.ts";
import { Random, f32, i32, out, tensor } from "./host.ts";
import type { Args } from "./host.ts";
import { checkGradients, describeCases, describeRefusals, device, instructionSets, pick, run, weighted } from "./support.ts";

describeCases("topk_route", [...routeCases, ...routeBackwardCases, ...balanceCases]);

const scalars = [
  { name: "score = 4", change: { score: 4 }, says: ["score", "0..3"] },
  { name: "a negative jitter", change: { jitter: -1 }, says: ["jitter"] },
  { name: "renormalize = 2", change: { renormalize: 2 }, says: ["renormalize"] },
  { name: "a negative norm_eps", change: { norm_eps: -1 }, says: ["norm_eps", "received -1"] },
  { name: "an infinite scale", change: { scale: Infinity }, says: ["scale", "inf"] },
];
const logits = (at: number, value: number) =>
  f32(
    [5, 8],
    Array.from({ length: 40 }, (_, i) => (i === at ? value : i)),
  );
describeRefusals([
  {
    base: routeBase,
    rows: [
      ...scalars,
      { name: "more choices than experts", change: { ids: out([5, 9], "i32"), weights: out([5, 9]) }, says: ["ids", "1..8", "received 9"] },
      {
        name: "more choices than the kept groups hold",
        change: { ids: out([5, 5], "i32"), weights: out([5, 5]) },
        says: ["ids", "K <= 4"],
      },
      { name: "groups that do not divide the experts", change: { n_group: 3, topk_group: 1 }, says: ["n_group", "divisor of 8"] },
      { name: "no groups", change: { n_group: 0 }, says: ["n_group"] },
      { name: "more groups than experts", change: { n_group: 16 }, says: ["n_group"] },
      { name: "more groups kept than there are", change: { topk_group: 5 }, says: ["topk_group", "1..4"] },
      { name: "top-2 sums of groups of one", change: { n_group: 8, topk_group: 4 }, says: ["n_group", "at least 2"] },
      { name: "group_score = 2", change: { group_score: 2 }, says: ["group_score"] },
      { name: "drop = 2", change: { drop: 2 }, says: ["drop"] },
      { name: "NaN logits", change: { logits: logits(19, NaN) }, says: ["logits", "token 2"], partial: true },
      { name: "infinite logits", change: { logits: logits(39, Infinity) }, says: ["logits", "token 4"], partial: true },
      { name: "minus infinite logits", change: { logits: logits(0, -Infinity) }, says: ["logits", "token 0"], partial: true },
      { name: "a bias under SparseMixer", change: { score: 3, n_group: 1, topk_group: 1 }, says: ["bias", "absent"] },
      { name: "groups under SparseMixer", change: { score: 3, bias: null }, says: ["n_group"] },
      { name: "factors of other experts", change: { expert_scale: out([7]) }, says: ["expert_scale", "8"] },
      { name: "a bias of another size", change: { bias: out([7]) }, says: ["bias", "8"] },
      { name: "a NaN bias", change: { bias: f32([8], [0, 0, 0, NaN, 0, 0, 0, 0]) }, says: ["bias[3]"] },
    ],
  },
  {
    base: routeBackwardBase,
    rows: [
      ...scalars,
      { name: "no probs under sigmoid", change: { score: 1, probs: null }, says: ["probs"] },
      { name: "factors under softmax over the chosen", change: { score: 2 }, says: ["expert_scale", "absent"] },
      { name: "the gradient of no factors", change: { expert_scale: null }, says: ["dexpert_scale", "absent"] },
      { name: "accumulate = 2", change: { accumulate: 2 }, says: ["accumulate"] },
      { name: "dense = 2", change: { dense: 2 }, says: ["dense"] },
      { name: "dense through pos", change: { dense: 1 }, says: ["pos", "dense"] },
      { name: "dense without those of all experts", change: { dense: 1, pos: null, dweights: out([5, 3]) }, says: ["dweights", "[5, 8]"] },
      { name: "dense under SparseMixer", change: { dense: 1, score: 3, pos: null, dweights: out([5, 8]) }, says: ["score", "0..2"] },
      {
        name: "dense under softmax over the chosen without logits",
        change: { dense: 1, score: 2, pos: null, dweights: out([5, 8]), probs: null, expert_scale: null, dexpert_scale: null },
        says: ["probs"],
      },
      { name: "no probs under softmax", change: { probs: null }, says: ["probs"] },
      {
        name: "an expert that does not exist",
        change: { ids: i32([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 8, 0, 1, 2], [5, 3]) },
        says: ["ids[3, 2]", "0..7", "received 8"],
      },
      {
        name: "a row that does not exist",
        change: { pos: i32([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15], [5, 3]) },
        says: ["pos[4, 2]", "0..14", "received 15"],
      },
    ],
  },
  {
    base: balanceBase,
    rows: [
      { name: "offsets that do not start at 0", change: { offsets: i32([1, 2, 2, 8]) }, says: ["offsets[0]", "received 1"] },
      { name: "descending offsets", change: { offsets: i32([0, 3, 2, 8]) }, says: ["offsets[2]", "received 2"] },
      { name: "negative offsets", change: { offsets: i32([0, 0, 0, -1]) }, says: ["offsets[3]", "received -1"] },
      { name: "an infinite coefficient", change: { coefficient: Infinity }, says: ["coefficient"] },
      { name: "an f32 loss", change: { loss: out([1]) }, says: ["loss", "f64"] },
    ],
  },
]);

describe("gradients of logits and factors against finite differences", () => {
  const scaled = backwardRules.filter(([, { score }]) => score !== 2).map(([name, rule]) => [`${name}, factors`, rule, true] as const);
  for (const [name, rule, factors = false] of [...backwardRules.map(([n, r]) => [n, r] as const), ...scaled] as const)
    it(name, async () => {
      const [T, E, K] = [4, 7, 3];
      const random = new Random(name);
      // Logits apart enough that no step changes the choice, or which of them are near.
      const z = f32([T, E], Array.from({ length: T }, () => random.permutation(E).map((p) => p * 0.4 + random.uniform() * 0.02)).flat());
      const args: Args = { ...route(T, E, K, rule, factors ? { expertScale: "f32" } : {})(random), logits: z };
      const c = random.normal([T, K]);
      const made = await run(device("ref"), "topk_route", args);
      const full = { ...plain, ...rule };
      const back = await run(device("ref"), "route_backward", {
        dweights: c,
        probs: f32([T, E], pick(made, "probs")),
        ids: i32(Array.from(pick(made, "ids")), [T, K]),
        weights: f32([T, K], pick(made, "weights")),
        expert_scale: args.expert_scale,
        dlogits: out([T, E]),
        dexpert_scale: factors ? out([E]) : null,
        accumulate: 0,
        score: full.score,
        renormalize: full.renormalize,
        norm_eps: full.norm_eps,
        scale: full.scale,
        jitter: full.jitter,
        dense: 0,
      });
      const inputs = factors ? ["logits", "expert_scale"] : ["logits"];
      await checkGradients({
        step: 5e-3,
        inputs: Object.fromEntries(inputs.map((input) => [input, Float32Array.from(tensor(args, input).values)])),
        gradients: Object.fromEntries(inputs.map((input) => [input, pick(back, `d${input}`)])),
        loss: async (i) => {
          const given = { logits: f32([T, E], i.logits!), ...(factors ? { expert_scale: f32([E], i.expert_scale!) } : {}) };
          return weighted(pick(await run(device("ref"), "topk_route", { ...args, ...given }), "weights"), c.values);
        },
      });
    });
});

/** Weights of all experts by the surrogate, in f64: what stands behind a constant is of `at`. */
function denseWeights(
  z: ArrayLike<number>,
  at: ArrayLike<number>,
  chosen: ReadonlySet<number>,
  rule: Rule,
  factors: ArrayLike<number>,
): number[] {
  const scores = (x: ArrayLike<number>): number[] => {
    const v = Array.from(x);
    if (rule.score === 1) return v.map((l) => 1 / (1 + Math.exp(-l)));
    const sum = v.reduce((s, l) => s + Math.exp(l), 0);
    return v.map((l) => Math.exp(l) / sum);
  };
  const [p, still] = [scores(z), scores(at)];
  const eps = rule.score === 2 ? 0 : rule.norm_eps;
  const sum = (v: readonly number[]): number => v.reduce((s, x, e) => s + (chosen.has(e) ? x : 0), eps);
  const once = rule.score === 2 && rule.renormalize === 1 ? 1 + rule.norm_eps : 1;
  const divisor = (e: number): number => (rule.renormalize === 1 || rule.score === 2 ? sum(chosen.has(e) ? p : still) * once : 1);
  return p.map((x, e) => (rule.scale * factors[e]! * x) / divisor(e));
}

describe("the dense gradient against finite differences of its surrogate", () => {
  const rules = backwardRules.filter(([, { score }]) => score !== 3).map(([name, rule]) => [name, { ...plain, ...rule }] as const);
  const scaled = rules.filter(([, { score }]) => score !== 2).map(([name, rule]) => [`${name}, factors`, rule, true] as const);
  it.each([...rules.map(([name, rule]) => [name, rule, false] as const), ...scaled])("%s", async (name, rule, factors) => {
    const [T, E, K] = [3, 7, 3];
    const random = new Random(name);
    const args: Args = route(T, E, K, rule, factors ? { expertScale: "f32" } : {})(random);
    const z = tensor(args, "logits");
    const dweights = random.normal([T, E]);
    const made = await run(device("ref"), "topk_route", args);
    const ids = Array.from(pick(made, "ids"));
    const back = await run(device("ref"), "route_backward", {
      dweights,
      probs: f32([T, E], pick(made, "probs")),
      ids: i32(ids, [T, K]),
      weights: f32([T, K], pick(made, "weights")),
      expert_scale: args.expert_scale,
      dlogits: out([T, E]),
      dexpert_scale: factors ? out([E]) : null,
      accumulate: 0,
      dense: 1,
      score: rule.score,
      renormalize: rule.renormalize,
      norm_eps: rule.norm_eps,
      scale: rule.scale,
      jitter: rule.jitter,
    });
    const scales = factors ? tensor(args, "expert_scale").values : new Float64Array(E).fill(1);
    const loss = (logits: ArrayLike<number>, by: ArrayLike<number>): number => {
      let sum = 0;
      for (let t = 0; t < T; t++) {
        const row = (v: ArrayLike<number>) => Array.from({ length: E }, (_, e) => v[t * E + e]!);
        const w = denseWeights(row(logits), row(z.values), new Set(ids.slice(t * K, t * K + K)), rule, by);
        w.forEach((x, e) => (sum += x * dweights.values[t * E + e]!));
      }
      return sum;
    };
    const difference = (values: ArrayLike<number>, i: number, f: (v: Float64Array) => number): number => {
      const moved = (by: number): number => f(Float64Array.from(values, (x, j) => (j === i ? x + by : x)));
      return (moved(1e-5) - moved(-1e-5)) / 2e-5;
    };
    pick(back, "dlogits").forEach((d, i) =>
      expect(d).toBeCloseTo(
        difference(z.values, i, (v) => loss(v, scales)),
        4,
      ),
    );
    if (factors)
      pick(back, "dexpert_scale").forEach((d, i) =>
        expect(d).toBeCloseTo(
          difference(scales, i, (v) => loss(z.values, v)),
          4,
        ),
      );
  });

  it("with all experts chosen it is the gradient of the weights", async () => {
    for (const [, rule] of rules) {
      const dense = routeBackward(6, 5, 5, rule, { dense: true })(new Random(4));
      const back = await run(device("cpu"), "route_backward", dense);
      const [ids, dw] = [tensor(dense, "ids"), tensor(dense, "dweights")];
      const sparse = f32(
        [6, 5],
        Array.from(ids.values, (e, i) => dw.values[Math.floor(i / 5) * 5 + e]!),
      );
      const plainly = await run(device("cpu"), "route_backward", { ...dense, dense: 0, dweights: sparse });
      pick(back, "dlogits").forEach((d, i) => expect(d).toBeCloseTo(pick(plainly, "dlogits")[i]!, 5));
    }
  });
});

it("scores that are no normal number are 0", async () => {
  const logits = f32(
    [1, 20],
    Array.from({ length: 20 }, (_, e) => -10 * e),
  );
  for (const isa of instructionSets) {
    const probs = pick(await run(device("cpu", 2, isa), "topk_route", { ...route(1, 20, 2)(new Random(1)), logits }), "probs");
    probs.forEach((p, e) => expect(p > 0, `${isa}: exp(${-10 * e})`).toBe(e < 9)); // 2⁻¹²⁶ = exp(−87.3)
  }
});

it("renormalised weights sum to the scale, ids are distinct and in range", async () => {
  const made = await run(device("cpu"), "topk_route", route(50, 32, 5, { renormalize: 1, scale: 2 })(new Random(3)));
  const [ids, weights] = [pick(made, "ids"), pick(made, "weights")];
  for (let t = 0; t < 50; t++) {
    expect(weights.slice(t * 5, t * 5 + 5).reduce((a, b) => a + b, 0)).toBeCloseTo(2, 5);
    expect(new Set(ids.slice(t * 5, t * 5 + 5)).size).toBe(5);
  }
});
