// Sampling on every instruction set against the reference (loops), bits against threads and neighbours, the reference against plain
// JavaScript, transformers and frequencies, refusals. No GPU. Alone: npx vitest run test/ops/sample.test.ts

import { describe, expect, it } from "vitest";
import { keptOf, largeSampleCases, penalised, sampleBase, sampleCases, sampling } from "./cases/sample.ts";
import { transformersRows } from "./cases/sample_transformers.ts";
import { Random, at, f32, i32, out, tensor } from "./host.ts";
import type { Args, HostTensor } from "./host.ts";
import { describeCases, describeRefusals, device, instructionSets, pick, run } from "./support.ts";

describeCases("sample", [...sampleCases, ...largeSampleCases]);

const f64 = (...values: number[]): HostTensor => ({ dtype: "f64", shape: [values.length], values: Float64Array.from(values) });
const numbers = (name: string, wrong: number, expected: string, right = 1) => ({
  name: `${name} ${wrong}`,
  change: { [name]: f32([3], [right, wrong, right]) },
  says: [`${name}[1]`, expected, `received ${Math.fround(wrong)}`.toLowerCase().replace("infinity", "inf").slice(0, 12)],
});
describeRefusals([
  {
    base: sampleBase,
    freeCols: ["logits", "seen"],
    rows: [
      { name: "no tokens", change: { logits: out([3, 0]), top_ids: null, top_logprobs: null }, says: ["logits", "1..1048576"] },
      { name: "temperature without u", change: { u: null }, says: ["u", "temperature"] },
      { name: "u without temperature", change: { temperature: null, top_k: null, top_p: null, min_p: null }, says: ["u", "temperature"] },
      ...["top_k", "top_p", "min_p"].map((name) => ({
        name: `${name} without temperature`,
        change: { temperature: null, u: null, top_k: null, top_p: null, min_p: null, [name]: sampleBase.args(new Random(1))[name] },
        says: [name, "without temperature"],
      })),
      { name: "a penalty without ids", change: { seen: null }, says: ["seen", "repetition_penalty"] },
      { name: "a penalty without offsets", change: { seen_offsets: null }, says: ["seen_offsets", "repetition_penalty"] },
      { name: "ids without a penalty", change: { repetition_penalty: null }, says: ["seen", "repetition_penalty"] },
      { name: "top_ids without their logprobs", change: { top_logprobs: null }, says: ["top_logprobs", "top_ids"] },
      {
        name: "more of the best than tokens",
        change: { top_ids: out([3, 12], "i32"), top_logprobs: out([3, 12]) },
        says: ["top_ids", "1..11"],
      },
      { name: "none of the best", change: { top_ids: out([3, 0], "i32"), top_logprobs: out([3, 0]) }, says: ["top_ids", "1..11"] },
      { name: "an f32 u", change: { u: out([3]) }, says: ["u", "f64"] },
      numbers("temperature", -1, "finite and >= 0"),
      numbers("temperature", NaN, "finite and >= 0"),
      numbers("temperature", Infinity, "finite and >= 0"),
      numbers("top_p", -0.5, "in 0..1"),
      numbers("top_p", 1.5, "in 0..1"),
      numbers("min_p", 2, "in 0..1"),
      numbers("min_p", NaN, "in 0..1"),
      numbers("repetition_penalty", 0, "finite and > 0"),
      numbers("repetition_penalty", -2, "finite and > 0"),
      numbers("repetition_penalty", Infinity, "finite and > 0"),
      { name: "u = 1", change: { u: f64(0, 0.5, 1) }, says: ["u[2]", "in [0, 1)", "received 1"] },
      { name: "u NaN", change: { u: f64(NaN, 0.5, 0) }, says: ["u[0]", "in [0, 1)"] },
      { name: "a negative top_k", change: { top_k: i32([0, -1, 3]) }, says: ["top_k[1]", "0..2147483647", "received -1"] },
      { name: "an id that does not exist", change: { seen: i32([1, 2, 3, 11, 10]) }, says: ["seen[3]", "0..10", "received 11"] },
      { name: "a negative id", change: { seen: i32([-1, 2, 3, 3, 10]) }, says: ["seen[0]", "received -1"] },
      { name: "offsets that do not start at 0", change: { seen_offsets: i32([1, 2, 2, 5]) }, says: ["seen_offsets[0]", "received 1"] },
      { name: "descending offsets", change: { seen_offsets: i32([0, 3, 2, 5]) }, says: ["seen_offsets[2]", "received 2"] },
      { name: "offsets beyond the ids", change: { seen_offsets: i32([0, 2, 2, 6]) }, says: ["seen_offsets[3]", "the number of ids", "6"] },
    ],
  },
]);

it("ids behind the last offset are nobody's, whatever they are", async () => {
  const args = { ...sampleBase.args(new Random(3)), seen: i32([1, 2, 3, 3, 10, -7, 99]) };
  for (const kind of ["ref", "cpu"] as const) expect(pick(await run(device(kind), "sample", args), "ids")[0]).toBeGreaterThanOrEqual(0);
});

/** Row r of a call as a call of its own. */
function alone(args: Args, r: number): Args {
  const slice = (t: HostTensor): HostTensor => {
    const each = t.values.length / t.shape[0]!;
    return { ...t, shape: [1, ...t.shape.slice(1)], values: Array.from(t.values).slice(r * each, (r + 1) * each) };
  };
  const offsets = tensor(args, "seen_offsets").values;
  return {
    ...Object.fromEntries(Object.entries(args).map(([name, a]) => [name, a && typeof a === "object" && "dtype" in a ? slice(a) : a])),
    ids: out([1], "i32"),
    logprob: out([1]),
    top_ids: out([1, 5], "i32"),
    top_logprobs: out([1, 5]),
    seen: i32(Array.from(tensor(args, "seen").values).slice(offsets[r], offsets[r + 1])),
    seen_offsets: i32([0, offsets[r + 1]! - offsets[r]!]),
  };
}

it("a row has the bits that it has alone, on any number of threads", async () => {
  const o = { temperature: [0.7, 0, 1, 2, 1e3], k: [50, 0, 0, 3000, 0], p: [0.9, 1, 0.95, 1, 0.5], min: 0.001, penalty: 1.2, top: 5 };
  const args = sampling(5, 40_000, o)(new Random("neighbours"));
  for (const isa of instructionSets) {
    const together = await run(device("cpu", 2, isa), "sample", args);
    for (let r = 0; r < 5; r++)
      for (const threads of [1, 2, 3]) {
        const one = await run(device("cpu", threads, isa), "sample", alone(args, r));
        for (const [i, { name, bytes }] of one.entries()) {
          const all = together[i]!.bytes;
          const width = all.length / 5;
          expect(Buffer.compare(bytes, all.subarray(r * width, (r + 1) * width)), `${isa}, row ${r}, ${threads} threads: ${name}`).toBe(0);
        }
      }
  }
});

/** Of each token how often it is drawn by u = (i + 1/2) / n: its probability, to 1 / n. */
async function shares(args: Args, n: number): Promise<Map<number, number>> {
  const V = tensor(args, "logits").shape[1]!;
  const rows = (name: string): HostTensor => ({
    ...tensor(args, name),
    shape: [n],
    values: new Array<number>(n).fill(tensor(args, name).values[0]!),
  });
  const logits = f32([n, V], Array.from({ length: n * V }, (_, i) => at(tensor(args, "logits"), 0, i % V))); // prettier-ignore
  const u = f64(...Array.from({ length: n }, (_, i) => (i + 0.5) / n));
  const seen = Array.from(tensor(args, "seen").values);
  const many = {
    logits,
    ...Object.fromEntries(["temperature", "top_k", "top_p", "min_p", "repetition_penalty"].map((name) => [name, rows(name)])),
    seen: i32(Array.from({ length: n }, () => seen).flat()),
    seen_offsets: i32(Array.from({ length: n + 1 }, (_, i) => i * seen.length)),
    u,
    ids: out([n], "i32"),
    logprob: out([n]),
  };
  const counts = new Map<number, number>();
  for (const id of pick(await run(device("cpu"), "sample", many), "ids")) counts.set(id, (counts.get(id) ?? 0) + 1 / n);
  return counts;
}

describe("what is drawn, and how often", () => {
  it.each(transformersRows.map((row, i) => [i, row] as const))("is what transformers leaves, row %i", async (_, row) => {
    const { temperature, k, p, min, penalty, seen, kept, probabilities } = row;
    const logits = f32([1, row.z.length], row.z.map((x) => x / 64)); // prettier-ignore
    const o = { temperature, k, p, min, penalty, seen: [seen], logits: () => logits, u: 0 };
    const found = await shares(sampling(1, row.z.length, o)(new Random(1)), 4000);
    for (const [i, id] of kept.entries()) expect(Math.abs((found.get(id) ?? 0) - probabilities[i]!), `token ${id}`).toBeLessThan(1 / 3000);
    for (const id of found.keys()) expect(kept, `token ${id}`).toContain(id);
  });

  it("has the probabilities of its weights: the computation in real numbers", async () => {
    for (const o of [
      { temperature: 1 },
      { temperature: 0.3, k: 30 },
      { temperature: 2, p: 0.7 },
      { temperature: 1.3, k: 40, p: 0.9, min: 0.05 },
    ]) {
      const full = { k: 0, p: 1, min: 0, ...o, penalty: 1.4, u: 0 };
      const args = sampling(1, 60, full)(new Random(JSON.stringify(o)));
      const z = penalised(args, 0, Array.from(tensor(args, "logits").values));
      const kept = keptOf(args, 0, z);
      const all = kept.reduce((s, { weight }) => s + weight, 0);
      const found = await shares(args, 5000);
      for (const { id, weight } of kept) expect(Math.abs((found.get(id) ?? 0) - weight / all), `token ${id}`).toBeLessThan(1 / 4000);
      expect(found.size).toBeLessThanOrEqual(kept.length);
    }
  });

  it("independent numbers give the frequencies of the distribution: χ²", async () => {
    const n = 20_000;
    const random = new Random("frequencies");
    const z = random.normal([1, 12], 1.5);
    const args = sampling(n, 12, { temperature: 1, logits: (_, R, V) => f32([R, V], Array.from({ length: R * V }, (__, i) => z.values[i % V]!)) }); // prettier-ignore
    const counts = new Array<number>(12).fill(0);
    for (const id of pick(await run(device("cpu"), "sample", args(random)), "ids")) counts[id]!++;
    const e = Array.from(z.values, Math.exp);
    const all = e.reduce((a, b) => a + b, 0);
    const chi = counts.reduce((s, c, i) => s + (c - (n * e[i]!) / all) ** 2 / ((n * e[i]!) / all), 0);
    expect(chi).toBeLessThan(31.3); // 11 degrees of freedom: passed by one in a thousand
  });

  it("weights are exponentials to two units in the last place", async () => {
    // Of two tokens the heavier one stays up to u = 1 / (1 + w): with u on either side of it, w is known. Below e^-13.3 the weights have
    // fewer bits than an f32.
    const distances = Array.from({ length: 400 }, (_, i) => Math.fround((i + 0.37) / 30));
    const close = async (side: number): Promise<number[]> => {
      const us = distances.map((d) => 1 - (1 / (1 + Math.exp(d))) * (1 + side * 2 ** -22));
      const args = sampling(400, 2, {
        temperature: 1,
        u: us,
        logits: () => f32([400, 2], distances.flatMap((d) => [0, -d])), // prettier-ignore
      })(new Random(1));
      return Array.from(pick(await run(device("ref"), "sample", args), "ids"));
    };
    expect(new Set(await close(1))).toEqual(new Set([0]));
    expect(new Set(await close(-1))).toEqual(new Set([1]));
  });
});
