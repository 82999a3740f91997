// Training jobs as YAML, as JSON and as flags: whatever is accepted asks for exactly what was written, and for the defaults elsewhere.

import { Command } from "@commander-js/extra-typings";
import { CommanderError } from "commander";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseDocument } from "yaml";
import { readJob } from "../../../lib/cli/job.ts";
import { JOB_NAMES, jobLeaves } from "../../../lib/cli/job_options.ts";
import { addSchemaFlags } from "../../../lib/cli/schema_flags.ts";
import { ConfigError } from "../../../lib/errors.ts";
import type { Job } from "../../../lib/train/request.ts";
import type { Case, Dice, Format } from "../case.ts";
import { difference, mutateJson } from "../case.ts";
import { changeBytes } from "../mutate_bytes.ts";
import type { Random } from "../random.ts";
import { jsonOf, toTree } from "../tree.ts";

type Json = Readonly<Record<string, unknown>>;

const SEEDS: readonly Json[] = [
  { model: "./m", data: "law.jsonl", method: { type: "esft", experts: "law.experts.json" }, outDir: "out/law", optimizer: { lr: 1e-5, schedule: "cosine", warmupSteps: 3 }, steps: 100 },
  {
    model: "./m", data: { file: "law.jsonl", template: "esft", maxLength: 4096, packing: "esft", onOverflow: "drop", onBadRow: "skip", shape: "messages" }, evalData: "t.jsonl",
    method: { type: "esft", profile: "p.json", select: { score: "gate", p: 0.2, compat: "esft-2024", average: "sequences" }, sharedExperts: true, nonExpertModules: false },
    outDir: "o", seed: 7, rowsPerStep: 4, microBatch: 2, evalFraction: 0.1, evalEvery: 5, evalRows: 6, saveEvery: 8, keep: "last", adapterDtype: "f32", device: "cuda:1", threads: 3,
    precision: "f32", auxLoss: 0.5, optimizer: { lr: 2e-5, beta1: 0.8, beta2: 0.9, eps: 1e-9, weightDecay: 0, clipNorm: 0, minLrRatio: 0.5 },
  },
  { model: "./m", data: "a", method: { type: "lora", rank: 8, alpha: 12.5, targets: ["attention", "dense"] }, outDir: "o", steps: 1 },
  { model: "./m", data: "a", method: "full", outDir: "o" },
]; // prettier-ignore

/** Block style, strings in quotes where they need it. */
function yamlOf(value: unknown, indent = ""): string {
  if (Array.isArray(value)) return value.length === 0 ? " []\n" : `\n${value.map((v) => `${indent}- ${JSON.stringify(v)}\n`).join("")}`;
  if (typeof value !== "object" || value === null)
    return ` ${typeof value === "string" && !/^[a-z./]+$/.test(value) ? JSON.stringify(value) : String(value)}\n`;
  return `\n${Object.entries(value).map(([key, v]) => `${indent}${key}:${yamlOf(v, `${indent}  `)}`).join("")}`; // prettier-ignore
}

const LINES = [
  "? x\n", "<<: *a\n", "a: &a [*a, *a]\n", "a: &a [1]\nb: &b [*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b]\nd: [*c,*c,*c,*c]\n", "--- \n", "...\n", "%YAML 1.1\n", "!!binary x\n", "steps: 1_000\n",
  "steps: 0o17\n", "steps: 1e2\n", "steps: yes\n", "steps: ~\n", "lr: .nan\n", "optimizer: {lr: .inf}\n", "steps: !!int '5'\n", "model: !!js/function x\n", "- a\n", "\t\n", "#\n", "'", "\"", "[", "{", ": ", "&", "*",
  "[".repeat(3000), "{a: ".repeat(500), "- ".repeat(3000), "steps: 5\n", "2024-01-01: x\n", "|\n  x\n", "null: 1\n", "1: 2\n", "true: 1\n", "__proto__: {steps: 1}\n", "constructor: 1\n",
]; // prettier-ignore

function changeYaml(bytes: Uint8Array, r: Random): { bytes: Uint8Array; what: string } {
  if (r.once(2)) return changeBytes(bytes, r);
  const lines = Buffer.from(bytes)
    .toString()
    .split(/(?<=\n)/);
  const [i, j] = [r.below(lines.length + 1), r.below(lines.length)];
  const line = r.pick([lines[j] ?? "", ...LINES]);
  lines.splice(i, r.below(2), line);
  return { bytes: Buffer.from(lines.join("")), what: `puts ${JSON.stringify(line.slice(0, 60))} at line ${i}` };
}

export const job: Format = {
  name: "job",
  async open(dir) {
    const path = join(dir, "job.yaml");
    const trees = SEEDS.map(toTree);
    const defaults = await Promise.all(SEEDS.map((s) => parsed(s)));
    async function parsed(value: Json): Promise<Json> {
      writeFileSync(path, JSON.stringify(value));
      return flat(await readJob(path, {}, {}));
    }
    // What is not said: of the smallest job.
    const rest = defaults[3]!;
    return (dice): Case => {
      const i = dice.top.below(SEEDS.length);
      if (dice.top.once(6)) return flagsCase(SEEDS[i]!, dice, rest);
      const asYaml = dice.top.once(2);
      const { bytes, steps, same } = asYaml ? mutateYaml(SEEDS[i]!, dice) : mutateJson(trees[i]!, dice);
      return {
        steps,
        same: same && !steps.includes("adds white space"), // a tab is none in YAML
        files: { "job.yaml": bytes },
        file: "job.yaml",
        parse: () => {
          writeFileSync(path, bytes);
          return readJob(path, {}, {});
        },
        judge: (found: Job) => {
          const said = asYaml ? yaml(bytes) : (jsonOf(bytes)?.value ?? yaml(bytes));
          return said === undefined ? "accepted what is neither YAML nor JSON" : judgeJob(said as Json, found, rest);
        },
      };
    };
  },
};

function mutateYaml(seed: Json, dice: Dice) {
  let bytes: Uint8Array = Buffer.from(yamlOf(seed).slice(1));
  const steps: string[] = [];
  dice.steps((r) => {
    const change = changeYaml(bytes, r);
    bytes = change.bytes;
    steps.push(change.what);
  });
  return { bytes, steps, same: steps.length === 0 };
}

/** What YAML says: no errors, and no tag that nobody knows. */
function yaml(bytes: Uint8Array): unknown {
  const document = parseDocument(Buffer.from(bytes).toString());
  return document.errors.length + document.warnings.length > 0 ? undefined : document.toJS();
}

function flagsCase(seed: Json, dice: Dice, rest: Json): Case {
  const args: [flag: string, value: string][] = [];
  const walk = (value: unknown, at: readonly string[]): void => {
    if (typeof value === "object" && value !== null && !Array.isArray(value))
      for (const [key, v] of Object.entries(value)) walk(v, [...at, key]);
    else args.push([at.join("."), String(value)]);
  };
  walk(
    {
      ...seed,
      data: typeof seed["data"] === "string" ? { file: seed["data"] } : seed["data"],
      method: typeof seed["method"] === "string" ? { type: seed["method"] } : seed["method"],
    },
    [],
  );
  const steps: string[] = [];
  dice.steps((r) => {
    const i = r.below(args.length);
    const [flag, value] = args[i] ?? ["model", ""];
    const number = Number(value);
    const other = r.pick([
      "",
      " ",
      "NaN",
      "Infinity",
      "-1",
      "0",
      "1e300",
      "1e999",
      "0x10",
      "1_0",
      "1__0",
      "true",
      "null",
      "[]",
      "a,b",
      "\u001b[2J",
      "-",
      "--",
      "é",
      `${value} `,
      `${value}0`,
      String(number * 2),
      value.slice(1),
      "x".repeat(5000),
      "__proto__",
    ]);
    switch (r.below(4)) {
      case 0:
        args.splice(i, 1);
        return steps.push(`leaves out --${flag}`);
      case 1:
        args.push([flag, other]);
        return steps.push(`says --${flag} again: ${other.slice(0, 40)}`);
      case 2:
        args[i] = [
          r.pick([
            `${flag}x`,
            flag.toUpperCase(),
            flag.split(".").at(-1)!,
            `${flag}.x`,
            "__proto__",
            "method",
            "optimizer",
            flag.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`),
          ]),
          value,
        ];
        return steps.push(`renames --${flag} to --${args[i]![0]}`);
      default:
        args[i] = [flag, other];
        return steps.push(`sets --${flag} to ${other.slice(0, 40)}`);
    }
  });
  const words = args.map(([flag, value]) => `--${flag}=${value}`);
  return {
    steps,
    same: steps.length === 0 && !Array.isArray((seed["method"] as Json)["targets"]),
    files: { flags: JSON.stringify(words) },
    file: "train",
    parse: async () => {
      const command = new Command()
        .exitOverride()
        .allowExcessArguments(false)
        .configureOutput({ writeErr: () => undefined, outputError: () => undefined });
      const read = addSchemaFlags(command, jobLeaves, JOB_NAMES);
      let flags: Record<string, unknown>;
      try {
        command.parse(words, { from: "user" });
        flags = read(command.opts());
      } catch (error) {
        if (!(error instanceof CommanderError)) throw error;
        throw new ConfigError("train: wrong usage", { cause: error });
      }
      return readJob(null, flags, {});
    },
    judge: (found: Job) => {
      const given = flat(found);
      const said = new Map<string, string>(); // by the leaf's own path: later ones win
      for (const [flag, value] of args) {
        const path = pathOf(flag, [...Object.keys(rest), ...Object.keys(given)]);
        said.set(path, value);
      }
      for (const [path, value] of said) {
        const got = given[path];
        const fits =
          typeof got === "number" ? Number(value.replaceAll("_", "")) === got : typeof got === "object" ? true : String(got) === value;
        if (!fits) return `--${path}=${value.slice(0, 60)} became ${JSON.stringify(got)}`;
      }
      for (const [path, value] of Object.entries(given))
        if (!said.has(path) && !path.startsWith("method.") && rest[path] !== value)
          return `${path}: expected ${String(rest[path])}, found ${String(value)}`;
      return null;
    },
  };
}

/** Which option a name means: its own path, in any spelling, or the last part of it. */
function pathOf(name: string, paths: readonly string[]): string {
  const own: Readonly<Record<string, string>> = { data: "data.file", method: "method.type", out: "outDir" };
  const camel = name.replace(/-([a-z])/g, (_, c: string) => c.toUpperCase());
  if (Object.hasOwn(own, name)) return own[name]!;
  return paths.find((path) => path === camel) ?? paths.find((path) => path.endsWith(`.${camel}`)) ?? camel;
}

/** Leaves by dotted path. */
export function flat(j: Job): Json {
  const { model, device, threads, precision, request } = j;
  const { data, evalData, method, outDir, options } = request;
  const out: Record<string, unknown> = {};
  const walk = (value: unknown, at: string): void => {
    if (typeof value === "object" && value !== null && !Array.isArray(value))
      for (const [key, v] of Object.entries(value)) walk(v, at === "" ? key : `${at}.${key}`);
    else if (value !== undefined) out[at] = value;
  };
  walk(
    {
      model,
      device,
      threads,
      precision,
      evalData: evalData ?? undefined,
      method,
      outDir,
      ...options,
      data: { ...options.data, file: data },
    },
    "",
  );
  return out;
}

/** What was written, and `rest` where nothing was. */
export function judgeJob(said: Json, found: Job, rest: Json): string | null {
  const given = flat(found);
  const wanted: Record<string, unknown> = {};
  const paths = [...Object.keys(rest), ...Object.keys(given)];
  const walk = (value: unknown, at: string): void => {
    if (typeof value === "object" && value !== null && !Array.isArray(value))
      for (const [key, v] of Object.entries(value)) walk(v, at === "" ? key : `${at}.${key}`);
    else if (Array.isArray(value) && (at === "data" || at === "data.files"))
      wanted["data.file"] = value.map((file: unknown) => (typeof file === "string" ? { file } : file)); // where flat has a list too
    else if (value !== undefined) wanted[pathOf(at, paths)] = value;
  };
  walk(said, "");
  for (const [path, value] of Object.entries(wanted)) {
    const d = difference(value, given[path], path);
    if (d !== null) return d;
  }
  for (const [path, value] of Object.entries(given))
    if (!(path in wanted) && !path.startsWith("method.")) {
      const d = difference(rest[path], value, path);
      if (d !== null) return d;
    }
  return null;
}
