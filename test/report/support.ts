// What reports are made of in tests: a run's files, profiles, a comparison, names that try to become markup; and pages read again.

import { mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { Profile } from "../../lib/experts/profile.ts";
import { sealedJson } from "../../lib/files/sealed.ts";
import { shown } from "../../lib/report/content.ts";
import type { Column, Row } from "../../lib/report/content.ts";

export const HOSTILE = [
  '</script><script>window.broken = 1</script>',
  '<img src=x onerror="window.broken = 2">',
  "\"'><svg onload=window.broken=3>",
  "<!-- --> ]]> ${window.broken = 4} \u2028 &lt;b&gt; \u0000",
] as const; // prettier-ignore

const start = {
  type: "start",
  step: 0,
  steps: 6,
  method: "esft",
  trainedParameters: 1200,
  trained: [],
  totalParameters: 30_000,
  activationBytes: 4096,
  stateBytes: 19_200,
  hostBytes: 100,
  examples: 20,
  heldOut: 4,
  device: "cpu",
  precision: "f32",
};
export const stepEvent = (step: number, more: object = {}): object => ({
  type: "step",
  step,
  steps: 6,
  loss: 3 - step / 10,
  accuracy: step / 20,
  tokens: 100,
  supervised: 40,
  gradNorm: 1 / step,
  lr: step * 1e-5,
  epoch: 0,
  coverage: 0.5,
  seconds: 0.5,
  tokensPerSecond: 200 + step,
  etaSeconds: 6 - step,
  time: "2026-01-02T03:04:05.678Z",
  ...more,
});

export const runEvents = (text = "rows were cut"): object[] => [
  start,
  { type: "warning", step: 0, message: text },
  { type: "eval", step: 0, best: true, loss: 3.25, accuracy: 0, supervised: 40 },
  ...[1, 2, 3].map((n) => stepEvent(n)),
  { type: "eval", step: 3, best: true, loss: 2.75, accuracy: 0.125, supervised: 40 },
  { type: "sample", step: 3, place: "held.jsonl:1", prompt: `Who? ${text}`, reference: "me", answer: text },
  ...[4, 5, 6].map((n) => stepEvent(n)),
  { type: "eval", step: 6, best: false, loss: 2.875, accuracy: 0.125, supervised: 40 },
  { type: "checkpoint", step: 6, path: "checkpoint" },
  { type: "done", step: 6, reason: "finished", seconds: 3 },
];

/** A run directory without what it trained. */
export function writeRun(dir: string, events: readonly object[] = runEvents(), more: Readonly<Record<string, unknown>> = {}): string {
  mkdirSync(dir, { recursive: true });
  writeFileSync(path.join(dir, "events.jsonl"), events.map((e) => `${JSON.stringify(e)}\n`).join(""));
  const request = {
    model: "/models/tiny",
    steps: 6,
    optimizer: { lr: 6e-5 },
    data: { file: "rows.jsonl" },
    method: { type: "esft" },
    ...more,
  };
  writeFileSync(path.join(dir, "request.json"), sealedJson(request));
  return dir;
}

/** Two layers of four experts, two per token; `counts` by layer. */
export function profileOf(counts: readonly (readonly number[])[], name = "tiny"): Profile {
  const layers = counts.map((c, layer) => ({
    layer,
    tokens: c.reduce((a, b) => a + b, 0) / 2,
    counts: [...c],
    gateSums: c.map((n) => n / 4),
  }));
  return new Profile({ source: "model", model: { name, fingerprint: "ab" }, topK: 2, experts: 4, sequences: 3, layers });
}

const unescaped = (text: string): string =>
  text.replace(/&(lt|gt|amp|quot|#39);/g, (_, name: string) => ({ lt: "<", gt: ">", amp: "&", quot: '"', "#39": "'" })[name]!);

export interface PageFigure {
  readonly id: string;
  readonly title: string;
  readonly columns: readonly Column[];
  readonly rows: readonly Row[];
}

/** The JSON of a page. */
export function dataOf(page: string): { readonly title: string; readonly figures: readonly PageFigure[] } {
  const [, text] = /<script type="application\/json" id="data">(.*?)<\/script>/s.exec(page)!;
  return JSON.parse(text!) as ReturnType<typeof dataOf>;
}

/** The texts of the table of a figure, header first; null: it has none. */
export function tableOf(page: string, id: string): string[][] | null {
  const [, figure = ""] = new RegExp(`<figure id="${id}".*?>(.*?)</figure>`, "s").exec(page) ?? [];
  const [, table] = /<table>(.*?)<\/table>/s.exec(figure) ?? [];
  if (table === undefined) return null;
  return [...table.matchAll(/<tr>(.*?)<\/tr>/gs)].map(([, row]) =>
    [...row!.matchAll(/<t[hd][^>]*>(.*?)<\/t[hd]>/gs)].map(([, cell]) => unescaped(cell!)),
  );
}

/** The same from the JSON, as the page shows cells. */
export function tableOfData({ columns, rows }: PageFigure): string[][] {
  return [columns.map((c) => c.label), ...rows.map((row) => columns.map((c) => shown(row[c.key] ?? null, c)))];
}
