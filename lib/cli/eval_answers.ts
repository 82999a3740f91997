// esft eval --metric: what a model answers to held-out rows, scored; base and adapter side by side.

import { basename, extname, join } from "node:path";
import type { Metric } from "../answers/metric.ts";
import { metricsByName } from "../answers/metrics.ts";
import { ConfigError } from "../errors.ts";
import type { AnswersEvaluation } from "../evaluate_answers.ts";
import type { DataInput, MachineOptions } from "../options.ts";
import type { AnswerFlags } from "./answer_flags.ts";
import { answerInput } from "./answer_flags.ts";
import { openModel } from "./common.ts";
import { adapterDir } from "./hub.ts";
import { change, count, percent, table } from "../format.ts";
import type { Terminal } from "./terminal.ts";

export interface EvalFlags
  extends AnswerFlags, MachineOptions, Pick<DataInput, "template" | "format" | "shape" | "onBadRow" | "onDropped"> {
  readonly data: readonly string[];
  readonly metric: string;
  readonly adapter?: string | undefined;
  readonly answers?: string | undefined;
  readonly rows?: number | undefined;
  readonly json?: true | undefined;
}

type Side = "base" | "adapter";
type Results = Readonly<Partial<Record<Side, AnswersEvaluation>>> & { readonly data: string; readonly base: AnswersEvaluation };

export async function evalAnswers(dir: string, flags: EvalFlags, terminal: Terminal): Promise<void> {
  const { signal } = terminal;
  const metrics = await metricsByName(flags.metric, "--metric");
  const files = answerFiles(flags);
  const { evaluateAnswers } = await import("../evaluate_answers.ts");
  await using model = await openModel(dir, flags, terminal);
  if (flags.adapter !== undefined) await model.adapters.add("adapter", await adapterDir(flags.adapter, terminal));
  const { template, format, shape, onBadRow, onDropped, rows } = flags;
  const side = (data: string, name: Side): Promise<AnswersEvaluation> =>
    evaluateAnswers(
      model,
      data,
      {
        metrics: metrics.map((m) => m.name),
        adapter: name === "adapter" ? name : null,
        ...(flags.answers === undefined ? {} : { file: files(data, name) }),
        ...given({ template, format, shape, onBadRow, onDropped, rows }),
        ...answerInput(flags),
      },
      { signal, onProgress: ({ done, total }) => terminal.progress(`${name} ${data}: ${done} of ${total} answers`) },
    );
  const results: Results[] = [];
  for (const data of flags.data) {
    const base = await side(data, "base");
    results.push({ data, base, ...(flags.adapter === undefined ? {} : { adapter: await side(data, "adapter") }) });
  }
  if (flags.json)
    return terminal.json({ model: dir, adapter: flags.adapter ?? null, results: results.map((r) => figures(r, files, flags)) });
  terminal.print(tables(results, metrics));
  for (const { data, base, adapter } of results)
    for (const [name, of] of Object.entries({ base, ...(adapter ? { adapter } : {}) })) {
      if (of.bad > 0) terminal.note(`${name} ${data}: ${of.bad} rows cannot be used and are left out`);
      if (of.cut > 0) terminal.note(`${name} ${data}: ${of.cut} of ${of.rows} answers were ended by --max-tokens`);
    }
}

/** A figure for people: shares in percent, BLEU on its own scale. */
const shown = (metric: Metric, score: number): string => (metric.best === 1 ? percent(score) : score.toFixed(2));
/** Points between two figures. */
const points = (metric: Metric, by: number): string => change(metric.best === 1 ? 100 * by : by, metric.best === 1 ? 1 : 2);

function tables(results: readonly Results[], metrics: readonly Metric[]): string {
  const compared = results.some((r) => r.adapter);
  const rows = results.flatMap(({ data, base, adapter }) =>
    metrics.map((metric) => {
      const [b, a] = [base.scores[metric.name]!, adapter?.scores[metric.name]];
      const sides = a === undefined ? [shown(metric, b)] : [shown(metric, b), shown(metric, a), points(metric, a - b)];
      return [data, count(base.rows), metric.name, ...sides];
    }),
  );
  return table(["data", "rows", "metric", ...(compared ? ["base", "adapter", "change"] : ["score"])], rows, { left: [2] });
}

function figures({ data, base, adapter }: Results, files: (data: string, side: Side) => string, { answers }: EvalFlags) {
  const of = ({ scores, rows, bad, cut, tokens }: AnswersEvaluation, side: Side) => ({
    scores,
    rows,
    bad,
    cut,
    tokens,
    ...(answers === undefined ? {} : { answers: files(data, side) }),
  });
  return { data, base: of(base, "base"), ...(adapter ? { adapter: of(adapter, "adapter") } : {}) };
}

/**
 * Where the answers go: the file as it was named where there is one kind of answers alone, else with the data's name and the side in it.
 * @throws ConfigError two files of data of one name
 */
function answerFiles({ answers = "", data, adapter }: EvalFlags): (data: string, side: Side) => string {
  const end = extname(answers);
  const stem = answers.slice(0, answers.length - end.length);
  const nameOf = (file: string): string => (data.length === 1 ? "" : `.${basename(file, extname(file))}`);
  const twice = data.find((file, i) => data.findIndex((other) => nameOf(other) === nameOf(file)) < i);
  if (answers !== "" && twice !== undefined)
    throw new ConfigError(`--answers: two files of data have the name ${basename(twice)}, by which their answers are named; evaluate them one by one`, {
      where: { key: "answers", file: twice },
    }); // prettier-ignore
  return (file, side) => join(`${stem}${nameOf(file)}${adapter === undefined ? "" : `.${side}`}${end}`);
}

const given = <T extends object>(options: T): T => Object.fromEntries(Object.entries(options).filter(([, v]) => v !== undefined)) as T;
