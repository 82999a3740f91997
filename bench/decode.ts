// npx tsx bench/decode.ts [--dir DIR] [--threads N] [--rounds N] [--llama FILE.gguf]: how fast answers are made, on random weights in the
// shape of OLMoE-1B-7B with 4 layers (3.4 GB bf16, written to DIR once): tokens per second of one answer and of eight together, of a prompt
// of 512, time to the first token, and the share of the memory's read bandwidth, measured between the rounds. One token reads every weight
// that it touches once. With --llama the same weights (bench/peer/olmoe_gguf.py) by llama.cpp, in turns (bench/peer/llama_decode.mjs).

import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { MoeModel } from "../lib/moe_model.ts";
import { PeakMeter } from "./cpu/peak.ts";
import { LineProcess } from "./line_process.ts";
import { writeOlmoe } from "./olmoe_model.ts";

const { values } = parseArgs({
  options: {
    dir: { type: "string" },
    threads: { type: "string", default: "2" },
    rounds: { type: "string", default: "3" },
    tokens: { type: "string", default: "64" },
    llama: { type: "string" },
  },
});
const dir = values.dir ?? join(tmpdir(), "esft-olmoe-4-layers");
const [threads, rounds, tokens] = [Number(values.threads), Number(values.rounds), Number(values.tokens)];

interface Timed {
  /** Milliseconds to the first token, and between tokens. */
  readonly first: number;
  readonly gaps: readonly number[];
}
async function startPeer(file: string): Promise<LineProcess> {
  const peer = new LineProcess(process.execPath, [join(import.meta.dirname, "peer/llama_decode.mjs"), file, String(threads)]);
  await peer.read();
  return peer;
}
async function timeOf(peer: LineProcess, batch: number, promptTokens: number, maxTokens: number): Promise<Timed> {
  const answer = JSON.parse(await peer.ask(JSON.stringify({ batch, prompt: promptTokens, tokens: maxTokens }))) as
    | Timed
    | { error: string };
  if ("error" in answer) throw new Error(`the peer: ${answer.error}`);
  return answer;
}

const median = (xs: readonly number[]): number => xs.toSorted((a, b) => a - b)[xs.length >> 1]!;
const percentile = (xs: readonly number[], p: number): number =>
  xs.toSorted((a, b) => a - b)[Math.min(xs.length - 1, Math.floor(xs.length * p))]!;

await writeOlmoe(dir);
const meter = PeakMeter.start();
const peer = values.llama === undefined ? null : await startPeer(values.llama);
for (const precision of ["bf16", "f32"] as const) {
  await using model = await MoeModel.fromPretrained(dir, { device: "cpu", threads, precision, checkWeights: false });
  const { vocab, layers } = model.spec;
  const D = 2048;
  /** Bytes that one token reads: attention, chosen experts, head. */
  const perToken = 2 * (layers.length * (4 * D * D + 64 * D + 8 * 3 * D * 1024) + vocab * D);
  const prompt = (n: number, seed: number): number[] => Array.from({ length: n }, (_, i) => ((i + 1) * 7919 + seed * 104729) % vocab);
  const run = async (batch: number, promptTokens: number, maxTokens: number) => {
    const gaps: number[] = [];
    const begin = performance.now();
    const first: number[] = [];
    await Promise.all(
      Array.from({ length: batch }, async (_, b) => {
        let last = begin;
        for await (const _piece of model.generate(prompt(promptTokens, b), { maxTokens, stopIds: [] })) {
          const now = performance.now();
          if (last === begin) first.push(now - begin);
          else gaps.push(now - last);
          last = now;
        }
      }),
    );
    return { seconds: (performance.now() - begin) / 1000, first: median(first), gaps };
  };
  await run(1, 8, 8);
  const theirs: { single: number; eight: number; prompt: number }[] = [];
  if (peer) await timeOf(peer, 1, 8, 8);
  const rows: { read: number; single: number; eight: number; prompt: number; first: number; p50: number; p99: number; trained: number }[] =
    [];
  for (let i = 0; i < rounds; i++) {
    const read = meter ? (await meter.sample(threads, 300)).read : Number.NaN;
    const one = await run(1, 8, tokens);
    const eight = await run(8, 8, tokens);
    const long = await run(1, 512, 1);
    const begin = performance.now();
    model.transformer.forward({ ids: Int32Array.from(prompt(512, 1)), positions: Int32Array.from({ length: 512 }, (_, t) => t), docStart: new Int32Array(512), targets: new Int32Array(512).fill(-100), supervised: 0 }); // prettier-ignore
    await model.device.synchronize();
    const forward = (performance.now() - begin) / 1000;
    if (peer)
      theirs.push({
        single: 1000 / median((await timeOf(peer, 1, 8, tokens)).gaps),
        eight: (8 * 1000) / median((await timeOf(peer, 8, 8, tokens)).gaps),
        prompt: 512 / ((await timeOf(peer, 1, 512, 1)).first / 1000),
      });
    rows.push({
      read,
      single: 1000 / median(one.gaps),
      eight: (8 * 1000) / median(eight.gaps),
      prompt: 512 / (long.first / 1000),
      trained: 512 / forward,
      first: one.first,
      p50: percentile(one.gaps, 0.5),
      p99: percentile(one.gaps, 0.99),
    });
  }
  const of = (key: keyof (typeof rows)[number]): number => median(rows.map((r) => r[key]));
  const share = median(rows.map((r) => (r.single * perToken) / 1e9 / r.read));
  console.log(
    `${precision}: one answer ${of("single").toFixed(1)} tokens/s = ${((of("single") * perToken) / 1e9).toFixed(1)} GB/s, ${(100 * share).toFixed(0)} % of the read bandwidth (${of("read").toFixed(1)} GB/s); ` +
      `eight together ${of("eight").toFixed(1)} tokens/s (${(of("eight") / of("single")).toFixed(2)} ×); prompt of 512 ${of("prompt").toFixed(0)} tokens/s ` +
      `(${((100 * of("prompt")) / of("trained")).toFixed(0)} % of the whole forward's ${of("trained").toFixed(0)}); first token after 8: ${of("first").toFixed(0)} ms, then p50 ${of("p50").toFixed(1)}, p99 ${of("p99").toFixed(1)} ms`,
  );
  if (theirs.length > 0) {
    const ratio = (key: "single" | "eight" | "prompt"): string => {
      const them = median(theirs.map((r) => r[key]));
      return `${them.toFixed(1)} tokens/s (ours ${median(theirs.map((r, i) => rows[i]![key] / r[key])).toFixed(2)} ×)`;
    };
    console.log(
      `${precision}: llama.cpp: one answer ${ratio("single")}, eight together ${ratio("eight")}, prompt of 512 ${ratio("prompt")}`,
    );
  }
}
peer?.stop();
meter?.stop();
