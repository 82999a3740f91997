// What must not change between the parts of a run, as facts that a checkpoint keeps: a run that resumes it is told which of them
// differ, from what to what. A decaying schedule may be lengthened, when one asks for it.

import type { Examples } from "../data/examples.ts";
import type { FileShare } from "../data/mixture.ts";
import type { BatchStream } from "../data/stream.ts";
import { ConfigError } from "../errors.ts";
import type { ExpertSet } from "../experts/expert_set.ts";
import { flatFacts, shownFact } from "../files/facts.ts";
import { sha256 } from "../files/hash.ts";
import type { TrainableSpec } from "../methods/method.ts";
import type { Transformer } from "../model/transformer.ts";
import type { TrainOptions } from "../options.ts";
import type { RunState } from "./checkpoint.ts";
import { dependsOnSteps } from "./schedule.ts";

/** What a run is made of, as far as its result depends on it. */
export interface RunParts {
  readonly options: TrainOptions;
  /** Identity of the base model. */
  readonly base: string;
  readonly trainable: TrainableSpec;
  readonly heldOut: Examples | null;
  readonly model: Pick<Transformer, "precision">;
  /** Weights that are quantised on disk were rounded to bf16. */
  readonly roundedBase?: boolean;
}
type Facts = RunState["facts"];
export type Extension = RunState["extensions"][number];

/** What no update depends on: how its number came about, when the run ends, what is written and told on the way. */
const FREE: ReadonlySet<keyof TrainOptions> = new Set([
  "epochs",
  "earlyStop",
  "driftEvery",
  "maxDrift",
  "maxHours",
  "saveEvery",
  "sampleEvery",
  "sampleRows",
  "sampleTokens",
] as const);

/** With a constant schedule (and no warm-up that is a share of the steps) the number of steps is no fact: a resumed run may do more. */
export function runFacts(
  { options, base, trainable, heldOut, model, roundedBase }: RunParts,
  stream: Pick<BatchStream, "fingerprint"> & Partial<Pick<BatchStream, "shares">>,
): Facts {
  const deciding = Object.entries(options).filter(([key]) => !FREE.has(key as keyof TrainOptions));
  const { steps, data, ...rest } = Object.fromEntries(deciding) as TrainOptions;
  const { template, format: _, ...reading } = data;
  return JSON.parse(
    JSON.stringify({
      ...rest,
      steps: dependsOnSteps(options.optimizer) ? steps : null,
      // Files may move or come in another format, also a template's: what the rows are is in their hash.
      data: { ...reading, template: template === "tokenizer" || template === "esft" ? template : "a file" },
      method: { type: trainable.type, ...trainable.options },
      experts: inWords(trainable.experts),
      trained: sha256(JSON.stringify(trainable.keys)),
      rows: stream.fingerprint,
      ...weightsOf(stream.shares ?? []),
      heldOutRows: heldOut?.fingerprint() ?? null,
      base,
      precision: model.precision,
      ...(roundedBase ? { dequantise: "bf16" } : {}),
    }),
  ) as Facts;
}

/** Told apart from the rows, which they decide too. */
const weightsOf = (files: readonly FileShare[]): { readonly weights?: string } =>
  files.some((f) => f.weight !== null) ? { weights: files.map((f) => f.weight).join(" ") } : {};

function inWords(experts: ExpertSet | null): string | null {
  if (experts === null) return null;
  const layers = [...experts.layers].filter(([, { ids }]) => ids.length > 0).map(([layer, { ids }]) => `layer ${layer}: ${ids.join(" ")}`);
  const more = [experts.sharedExperts ? "shared experts" : "", experts.nonExpertModules ? "other modules" : ""];
  return [...layers, ...more].filter(Boolean).join("; ");
}

/** Facts that are hashes, or need a word. */
const LABELS: Readonly<Record<string, string>> = {
  trained: "the list of trained tensors",
  rows: "the training rows",
  heldOutRows: "the held-out rows",
  base: "the base model",
};

/**
 * Is `now` the run that `before` was? @returns how its schedule was lengthened, where it was
 * @throws ConfigError what differs, all of it
 */
export function requireSameRun(dir: string, step: number, before: Facts, now: Facts, extend: boolean): Extension | null {
  const [old, asked] = [flatFacts(before), flatFacts(now)];
  let extension: Extension | null = null;
  const found = [...new Set([...old.keys(), ...asked.keys()])].flatMap((key) => {
    const [from, to] = [old.get(key), asked.get(key)];
    if (from === to) return [];
    if (key === "keep" && to === '"last"') return []; // decides what is delivered at the end, no more
    if (key === "steps" && Number(to) > Number(from)) {
      if (!extend) return [{ key, from, to, more: " (a longer schedule is taken with --extend, extend: true)" }];
      extension = { step, from: Number(from), to: Number(to) };
      return [];
    }
    return [{ key, from, to, more: key === "steps" ? " (a schedule can be lengthened, not shortened)" : "" }];
  });
  const [first] = found;
  if (first === undefined) return extension;
  const list = found.map(({ key, from, to, more }) => `${LABELS[key] ?? key} ${shownFact(from, to)} → ${shownFact(to, from)}${more}`);
  throw new ConfigError(
    `${dir}: the checkpoint belongs to a run with other options, data or base model: ${list.join(", ")}; resume with the same ones, or choose another outDir`,
    { where: { file: dir, key: first.key, expected: first.from, found: first.to } },
  );
}
