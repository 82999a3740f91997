// esft init: a job for a model and its rows, as a YAML file that explains itself.

import { stat } from "node:fs/promises";
import { basename, extname, join } from "node:path";
import type { Command } from "@commander-js/extra-typings";
import { ConfigError } from "../errors.ts";
import { requireOutputFile } from "../files/apart.ts";
import { announcePipe } from "./common.ts";
import { count } from "../format.ts";
import { MODEL, modelDir } from "./hub.ts";
import type { DataFacts } from "./init_data.ts";
import type { ModelFacts, Suggested, Values } from "./init_plan.ts";
import type { Section, YamlOption } from "./init_yaml.ts";
import type { Terminal } from "./terminal.ts";

export function registerInit(program: Command, terminal: Terminal): void {
  program
    .command("init")
    .description("write a job for esft train that fits a model and its rows: a YAML file that says what each option does")
    .argument("<model>", MODEL)
    .option("--data <file>", "training rows (JSONL, JSON, CSV or Parquet): their format and length decide what the job says")
    .option("--out <file>", "file to write", "esft.yaml")
    .option("--force", "replace a file that is there")
    .addHelpText(
      "after",
      `
Of a model on the hub the tokenizer and the configuration are fetched, its weights by what needs
them first.
Examples:
  esft init allenai/OLMoE-1B-7B-0924 --data law.jsonl
  esft init ./OLMoE-1B-7B --data law.csv --out law.yaml`,
    )
    .action(async (word, { data, out, force }) => {
      if (
        !force &&
        (await stat(out).then(
          () => true,
          () => false,
        ))
      )
        // prettier-ignore
        throw new ConfigError(`${out} is there already; --force replaces it, --out FILE names another`, { where: { key: "out", file: out } });
      await requireOutputFile(out, data === undefined ? [] : [data]);
      if (data !== undefined) await announcePipe(data, terminal, false);
      const written = await writeJob({ word, data: data ?? null, out }, terminal);
      for (const note of written.notes) terminal.note(note);
      terminal.print(`written: ${out}`);
      terminal.print(["next:", ...written.next.map((line) => `  ${line}`)].join("\n"));
    });
}

interface Asked {
  readonly word: string;
  readonly data: string | null;
  readonly out: string;
}

async function writeJob(asked: Asked, terminal: Terminal): Promise<{ readonly notes: string[]; readonly next: string[] }> {
  const { word, out } = asked;
  const { loadTokenizer } = await import("../text/tokenizer.ts");
  const { surveyData } = await import("./init_data.ts");
  const plan = await import("./init_plan.ts");
  const dir = await modelDir(word, terminal, "tokenizer");
  const model = await modelFacts(dir);
  const tokenizer = await loadTokenizer(dir);
  const template = tokenizer.chatTemplates.size > 0 || tokenizer.bosToken === null || tokenizer.eosToken === null ? "tokenizer" : "esft";
  const onProgress = ({ rows, tokens }: { rows: number; tokens: number }): void =>
    terminal.progress(`reading rows: ${count(rows)}, ${count(tokens)} tokens`);
  const data = asked.data === null ? null : await surveyData(asked.data, tokenizer, template, { signal: terminal.signal, onProgress });
  const stem = out.slice(0, out.length - extname(out).length);
  const profile = `${stem}.profile.json`;
  const lengths = plan.suggestedLengths(data, model);
  const values = { ...lengths.values, ...plan.suggestedMethod(model, profile) };
  const runDir = join("out", basename(data?.file ?? stem).replace(/\..*$/, "") || "run");
  const text = await textOf(asked, dir, model, data, template, values, lengths, runDir);
  await checkAndWrite(out, text);
  const file = data?.file ?? "train.jsonl";
  const flags = [
    ...(template === "tokenizer" ? [] : [`--template ${template}`]),
    ...(data?.askedFormat ? [`--format ${data.askedFormat}`] : []),
    ...(data?.askedShape ? [`--shape ${data.askedShape}`] : []),
    ...(data !== null && data.bad > 0 ? ["--on-bad-row skip"] : []),
  ];
  return {
    notes: [
      ...(data === null
        ? [`no --data: the file names ${file}; put your rows there, or name others`]
        : [dataWords(data), ...lengths.lengthWords]),
      ...(data !== null && data.bad > 0 ? [`${data.bad} rows cannot be used and are left out; esft preview ${quoted(word)} ${quoted(file)} --lint lists them`] : []), // prettier-ignore
    ],
    next: [
      ...(values["method.profile"] === undefined
        ? []
        : [["esft profile", quoted(word), quoted(file), ...flags, `--max-length ${values["data.maxLength"]}`, `-o ${quoted(profile)}`].join(" ")]), // prettier-ignore
      `esft train ${quoted(out)}`,
    ],
  };
}

async function modelFacts(dir: string): Promise<ModelFacts> {
  const { readJsonFile } = await import("../files/json.ts");
  const { modelSpec } = await import("../model/families/index.ts");
  const { expertLayout } = await import("../experts/expert_set.ts");
  const file = join(dir, "config.json");
  const spec = modelSpec((await readJsonFile(file, ConfigError)) as Parameters<typeof modelSpec>[0], file);
  const layout = expertLayout(spec);
  return { maxPositions: spec.maxPositions, sparseLayers: layout.size, experts: Math.max(0, ...layout.values()) };
}

/** A job that is not one is a defect, not a file. */
async function checkAndWrite(out: string, text: string): Promise<void> {
  const { parse } = await import("yaml");
  const { CheckedRequest } = await import("../train/request.ts");
  const { writeFileAtomic } = await import("../files/atomic.ts");
  CheckedRequest.parseJob(parse(text) as Record<string, unknown>, out, {});
  await writeFileAtomic(out, text);
}

const plural = (n: number, word: string): string => `${n} ${word}${n === 1 ? "" : "s"}`;
const dataWords = ({ rows, format, shapes, tokens, trained }: DataFacts): string =>
  `${plural(rows, "row")} of ${format === "jsonl" ? "JSONL" : format} (${Object.entries(shapes).map(([shape, n]) => `${n} ${shape}`).join(", ")}), ${count(tokens)} tokens, ${count(trained)} of them trained`; // prettier-ignore

async function textOf(
  { word, out }: Asked,
  dir: string,
  model: ModelFacts,
  data: DataFacts | null,
  template: string,
  values: Values,
  lengths: Suggested,
  runDir: string,
): Promise<string> {
  const { snapshotOf } = await import("../hub/layout.ts");
  const { jobYaml } = await import("./init_yaml.ts");
  const hub = snapshotOf(dir);
  const put = (path: string, notes?: readonly string[]): YamlOption => ({ path, value: values[path], notes });
  const idle = (path: string, example?: string | number): YamlOption => ({ path, example });
  const experts = model.sparseLayers > 0;
  const sections: Section[] = [
    {
      title: "What is trained on what",
      options: [
        {
          path: "model",
          value: word,
          notes: [
            experts ? `${plural(model.sparseLayers, "layer")} of ${model.experts} experts.` : "A dense model: it has no experts to select.",
            ...(hub === null
              ? []
              : [`When this was written ${hub.id} was at the commit ${hub.commit}; ${hub.id}@${hub.commit} stays there.`]),
          ],
        },
        {
          path: "data.file",
          value: data?.file ?? "train.jsonl",
          notes: data === null ? ["Your rows: no --data was given."] : [`${dataWords(data)}.`],
        },
        { path: "data.format", value: data?.askedFormat ?? undefined },
        { path: "data.shape", value: data?.askedShape ?? undefined },
        {
          path: "data.template",
          value: template,
          notes: template === "esft" ? ["The tokenizer of this model has no chat template."] : [],
        },
        put("data.maxLength", lengths.lengthWords),
        idle("data.onOverflow"),
        idle("data.packing"),
        {
          path: "data.onBadRow",
          value: data !== null && data.bad > 0 ? "skip" : undefined,
          notes: data?.firstFault ? [`${data.bad} of ${data.rows} rows cannot be used, the first: ${data.firstFault}`] : [],
        },
        put("evalFraction"),
        idle("evalData", "test.jsonl"),
        { path: "outDir", value: runDir },
      ],
    },
    {
      title: "The method",
      options: experts
        ? [
            put("method.type", ["ESFT trains few parameters and forgets little; for options of the others see esft train --help."]),
            put("method.profile", [`Written by esft profile before the first esft train ${out}.`]),
            put("method.select.score"),
            put("method.select.p", ["A larger p trains more experts: more is learnt and forgotten, for more memory. The paper: 0.2."]),
            idle("method.select.topKPerLayer", 8),
            idle("method.router"),
          ]
        : [put("method.type"), put("method.rank"), idle("method.alpha", 32), put("method.targets")],
    },
    {
      title: "How long, and how fast",
      options: [
        put("epochs", lengths.stepWords === "" ? [] : [lengths.stepWords]),
        idle("steps", 500),
        put("rowsPerStep"),
        idle("microBatch", 4),
        put("optimizer.lr", ["esft compare finds the best of several on your rows."]),
        { path: "optimizer.schedule", value: "cosine" },
        { path: "optimizer.warmupRatio", value: 0.05 },
        idle("optimizer.weightDecay"),
        idle("optimizer.clipNorm"),
      ],
    },
    {
      title: "What is watched and kept",
      options: [
        put("evalEvery"),
        idle("earlyStop.patience", 3),
        idle("sampleEvery"),
        idle("saveEvery"),
        idle("keep"),
        idle("maxHours", 8),
        idle("seed"),
      ],
    },
    { title: "The machine", options: [idle("device"), idle("threads", 4), idle("precision", "bf16"), idle("dequantise", "bf16")] },
  ];
  const head = [
    `A job for: esft train ${out}`,
    "",
    "What stands behind # is not set: the value shown is the default, or an example. Flags of the same",
    "names win over this file (esft train FILE --epochs 2); esft train --help lists all options.",
  ];
  return jobYaml(head, sections);
}

/** As a shell takes it. */
const quoted = (word: string): string => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`);
