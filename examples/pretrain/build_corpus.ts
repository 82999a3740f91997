// Writes the pretraining corpus and the validation rows of every domain, and checks that tasks need no token that it does not teach.
//   npx tsx examples/pretrain/build_corpus.ts [--out out/pretrain] [--tokens 6000000] [--rows 200] [--seed 1]
// Files: train.jsonl (all domains, equal shares of tokens, shuffled), validation/<domain>.jsonl. Rows are {"messages"} or {"text"}.
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { DOMAINS, generate, type Row, type Split } from "./domains/index.ts";
import { rowEncoder } from "./encode_row.ts";
import { Rng } from "./rng.ts";
import { TASKS } from "./tasks/index.ts";
import { countTargets, MIN_COUNT, requireTaught } from "./token_check.ts";

const { values } = parseArgs({
  options: {
    out: { type: "string", default: "out/pretrain" },
    tokenizer: { type: "string", default: "examples/embedded" },
    tokens: { type: "string", default: "6000000" },
    rows: { type: "string", default: "200" },
    seed: { type: "string", default: "1" },
  },
});
const seed = Number(values.seed);
const encoder = await rowEncoder(values.tokenizer);

interface Stats {
  rows: number;
  chats: number;
  tokens: number;
  /** Tokens with a label when only answers and documents are learned. */
  learned: number;
  longest: number;
}

async function measure(rows: readonly Row[]): Promise<Stats> {
  const stats: Stats = { rows: rows.length, chats: 0, tokens: 0, learned: 0, longest: 0 };
  for (const row of rows) {
    const { ids, labels } = await encoder.encode(row);
    if ("messages" in row) stats.chats++;
    stats.tokens += ids.length;
    for (const label of labels) if (label >= 0) stats.learned++;
    stats.longest = Math.max(stats.longest, ids.length);
  }
  return stats;
}

function printStats(name: string, split: Split, s: Stats): void {
  const cells = [s.rows, s.chats, s.tokens, (s.tokens / s.rows).toFixed(1), ((100 * s.learned) / s.tokens).toFixed(0), s.longest];
  console.log(name.padEnd(12) + split.padEnd(12) + cells.map((cell) => String(cell).padStart(10)).join(""));
}

function write(path: string, rows: readonly Row[]): void {
  writeFileSync(path, rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
}

mkdirSync(join(values.out, "validation"), { recursive: true });
console.log("domain".padEnd(12) + "split".padEnd(12) + ["rows", "chats", "tokens", "mean", "learned %", "longest"].map((h) => h.padStart(10)).join(""));

const perDomain = Number(values.tokens) / DOMAINS.length;
const train: Row[] = [];
for (const { name } of DOMAINS) {
  // The mean length of a probe tells how many rows make this domain's share of the tokens.
  const probe = await measure(generate(name, seed, 500));
  const rows = generate(name, seed, Math.max(1, Math.round((perDomain * probe.rows) / probe.tokens)));
  printStats(name, "train", await measure(rows));
  // Not push(...rows): a spread of a whole corpus overflows the stack.
  for (const row of rows) train.push(row);
  const held = generate(name, seed, Number(values.rows), "validation");
  printStats(name, "validation", await measure(held));
  write(join(values.out, "validation", `${name}.jsonl`), held);
}
const counts = new Uint32Array(encoder.vocabSize);
await countTargets(train, encoder, counts);
const names = [...TASKS, ...DOMAINS].map(({ name }) => name);
await requireTaught(names, 1000, encoder, counts);
write(join(values.out, "train.jsonl"), new Rng(`corpus order ${seed}`).shuffle(train));
printStats("all", "train", await measure(train));
console.log(`every token of ${TASKS.length} tasks and ${DOMAINS.length} domains is taught at least ${MIN_COUNT} times`);
