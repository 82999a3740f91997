// npm run fuzz: structured fuzzing of every format that esft reads, on and on with fresh seeds. Prints counts, and how to see each
// finding again.
//
//   npm run fuzz -- --minutes 10              every format
//   npm run fuzz -- --only rows --seed 7      one of them, from a seed
//   npm run fuzz -- --only rows --seed 7 --case 123

import { parseArgs } from "node:util";
import { formats } from "./formats/index.ts";
import type { Counts, Found, Task } from "./worker.ts";
import { Watch } from "./watch.ts";

const { values } = parseArgs({
  options: {
    minutes: { type: "string", default: "1" },
    only: { type: "string", multiple: true },
    seed: { type: "string" },
    case: { type: "string" },
    findings: { type: "string", default: "20" },
  },
});
const names = formats.map((f) => f.name).filter((name) => !values.only || values.only.includes(name));
const unknown = values.only?.find((name) => !formats.some((f) => f.name === name));
if (unknown !== undefined || names.length === 0) {
  console.error(`unknown format ${unknown}; known: ${formats.map((f) => f.name).join(", ")}`);
  process.exit(2);
}
const minutes = Number(values.minutes);
/** Every format has the same time in turn: what is cheap to read is read more often. */
const SLICE_MS = 4000;
const watch = new Watch();
const total = new Map<string, Counts>(names.map((name) => [name, { cases: 0, ends: {}, slowestMs: 0, slowestCase: 0 }]));
const shown = new Set<string>();
let findings = 0;

/** One finding of a kind in one place is enough to see; the others are counted. */
async function report(task: Task, found: Found): Promise<void> {
  findings++;
  const signature = `${task.format} ${found.kind} ${found.detail.replace(/["[{(].*$|\d+/gs, "").slice(0, 60)}`;
  if (shown.has(signature) || shown.size >= Number(values.findings)) return;
  shown.add(signature);
  const { folder, found: least } = await watch.shrink(task, found);
  console.log(`${task.format} seed ${task.seed} case ${found.index}: ${least.kind}: ${least.detail.slice(0, 1200)}`);
  for (const step of least.steps) console.log(`    ${step.slice(0, 200)}`);
  console.log(`    saved in ${folder}`);
}

async function run(task: Task): Promise<void> {
  const found: Found[] = [];
  const counts = await watch.run(task, (f) => found.push(f));
  const sum = total.get(task.format)!;
  sum.cases += counts.cases;
  for (const [end, n] of Object.entries(counts.ends)) sum.ends[end] = (sum.ends[end] ?? 0) + n;
  if (counts.slowestMs > sum.slowestMs) [sum.slowestMs, sum.slowestCase] = [counts.slowestMs, counts.slowestCase];
  for (const f of found) await report(task, f);
}

function table(): void {
  for (const [name, { cases, ends, slowestMs, slowestCase }] of total) {
    const list = Object.entries(ends).sort(([, a], [, b]) => b - a).map(([end, n]) => `${end} ${n}`).join(", "); // prettier-ignore
    console.log(`${name.padEnd(12)} ${String(cases).padStart(8)}  slowest ${slowestMs.toFixed(0)} ms (case ${slowestCase})  ${list}`);
  }
  const cases = [...total.values()].reduce((n, t) => n + t.cases, 0);
  console.log(`${cases} cases, ${findings} findings`);
}

try {
  const seed = Number(values.seed ?? Date.now() % 1e9);
  if (values.case !== undefined) {
    const index = Number(values.case);
    for (const format of names) await run({ format, seed, from: index, to: index + 1 });
  } else {
    console.log(`seed ${seed}`);
    const end = Date.now() + minutes * 60_000;
    do
      for (const format of names) {
        const from = total.get(format)!.cases;
        if (Date.now() < end || from === 0) await run({ format, seed, from, to: Number.MAX_SAFE_INTEGER, ms: SLICE_MS });
      }
    while (Date.now() < end);
  }
  process.exitCode = findings > 0 ? 1 : 0;
} finally {
  table();
  watch.dispose();
}
