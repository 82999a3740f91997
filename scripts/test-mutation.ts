// Mutation testing of TypeScript with StrykerJS: npm run test:mutation [-- PATH …] [--again] [--static] [--concurrency N]
//   PATH           a folder of the table below, or files of one (default: every folder of it, one after the other)
//   --again        after new tests: only what survived the last run of the same paths, and files that changed; the score is of both
//   --static       also mutants of what runs while a module loads (tables, schemas): each costs all tests of the folder
//   --concurrency  test processes at once (2)
//
// Only the folder's own tests run: they are to notice what breaks; golden numbers and CLI runs are the second net. Prints the score and
// every survivor, writes out/mutation/NAME.json and .html. Not mutated: the words of errors (mutation-ignore.ts). StrykerJS works in a
// copy below .stryker-tmp and keeps vitest's workers in threads, so each mutant opens the addon of build/Release in a new environment of
// one process.

import { existsSync, mkdirSync, readFileSync, readdirSync, statSync, writeFileSync } from "node:fs";
import path from "node:path";
import { parseArgs } from "node:util";
import { Stryker } from "@stryker-mutator/core";
import { root, stop, typescript } from "./run.ts";

const name = "test:mutation";

/** Folder of lib: the tests that answer for it, folders or files of test; a "!" leaves one out that takes minutes for every mutant. */
const tests: Readonly<Record<string, readonly string[]>> = {
  "lib/experts": ["test/experts"],
  "lib/adapter": ["test/adapter"],
  "lib/methods": ["test/methods", "test/model"],
  "lib/train": ["test/train", "test/data"],
  // Of text, the fixtures alone meet data.
  "lib/data": ["test/data", "test/text", ...["python_text", "template", "tokenizer"].map((t) => `!test/text/${t}.test.ts`)],
  "lib/text": ["test/text"],
  "lib/files": ["test/files", "!test/files/crash_matrix.test.ts"],
  "lib/answers": ["test/answers"],
  "lib/generate": ["test/generate"],
  "lib/model/weights": ["test/model", "test/methods"],
  "lib/model": ["test/model", "test/methods"],
};

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    again: { type: "boolean", default: false },
    static: { type: "boolean", default: false },
    concurrency: { type: "string", default: "2" },
  },
});
const addon = path.join(root, "build", "Release", "esft.node");
if (!existsSync(addon)) stop(name, `no ${addon}; npm run build:native builds it`);
// The copy has no build folder.
process.env["ESFT_NATIVE"] ??= addon;
const emulation = path.join(root, "build", "Release", "libesft_cuda_emu.so");
if (existsSync(emulation)) process.env["ESFT_CUDA_LIBRARY"] ??= emulation;
process.env["ESFT_THREADS"] ??= "1";
// StrykerJS loads its plugins in each of its processes, and Node 20 cannot strip types by itself.
process.env["NODE_OPTIONS"] = [process.env["NODE_OPTIONS"], ...typescript].filter(Boolean).join(" ");

/** A run: the paths that were asked for, what is mutated as globs, and the folder whose tests answer for it. */
interface Job {
  readonly folder: string;
  readonly paths: readonly string[];
  readonly mutate: readonly string[];
}

/** The deepest folder of the table that holds a path. */
function folderOf(file: string): string {
  const folders = Object.keys(tests).filter((f) => file === f || file.startsWith(`${f}/`));
  const folder = folders.sort((a, b) => b.length - a.length)[0];
  return folder ?? stop(name, `${file}: expected a path in ${Object.keys(tests).join(", ")}`);
}

const jobs = new Map<string, Job>();
for (const given of positionals.length > 0 ? positionals : Object.keys(tests)) {
  const file = path.relative(root, path.resolve(given));
  if (!existsSync(path.join(root, file))) stop(name, `${given} does not exist`);
  const folder = folderOf(file);
  const deeper = Object.keys(tests).filter((other) => other.startsWith(`${file}/`));
  const mutate = statSync(path.join(root, file)).isDirectory() ? [`${file}/**/*.ts`, ...deeper.map((d) => `!${d}/**`)] : [file];
  const { paths = [], mutate: before = [] } = jobs.get(folder) ?? {};
  jobs.set(folder, { folder, paths: [...paths, file], mutate: [...before, ...mutate] });
}

const out = path.join(root, "out", "mutation");
mkdirSync(out, { recursive: true });

/** Paths of the test files that answer for a folder. */
function testFiles(folder: string): string[] {
  const named = tests[folder] ?? [];
  const folders = named.filter((n) => !n.startsWith("!"));
  const files = folders.flatMap((f) =>
    readdirSync(path.join(root, f), { recursive: true, encoding: "utf8" }).map((file) => `${f}/${file}`),
  );
  return files.filter((file) => file.endsWith(".test.ts") && !named.includes(`!${file}`)).sort();
}

/** A mutant as a report keeps it: lines and columns from 1. */
interface Reported {
  readonly mutatorName: string;
  readonly replacement?: string;
  readonly status: string;
  readonly location: { readonly start: Place; readonly end: Place };
}
interface Place {
  readonly line: number;
  readonly column: number;
}
interface Report {
  readonly files: Readonly<Record<string, { readonly source: string; mutants: Reported[] }>>;
}
const read = (file: string): Report => JSON.parse(readFileSync(file, "utf8")) as Report;
const survived = ({ status }: Reported): boolean => status === "Survived" || status === "NoCoverage";
const identity = ({ mutatorName, replacement, location }: Reported): string => JSON.stringify([mutatorName, replacement, location]);

/** What a run after new tests has to mutate: survivors in files that are as they were, whole files that are not. */
function again(old: Report): string[] {
  return Object.entries(old.files).flatMap(([file, { source, mutants }]) => {
    if (!existsSync(path.join(root, file))) return [];
    if (readFileSync(path.join(root, file), "utf8") !== source) return [file];
    // A range counts columns from 0.
    const left = mutants.filter(survived).map(({ location: { start, end } }) => {
      return `${file}:${start.line}:${start.column - 1}-${end.line}:${end.column - 1}`;
    });
    return [...new Set(left)];
  });
}

/** What the last run knew of mutants that this one did not meet again. */
function carryOver(old: Report, report: string): void {
  const now = read(report);
  const files: Record<string, Report["files"][string]> = { ...now.files };
  for (const [file, { source, mutants }] of Object.entries(old.files)) {
    if (!existsSync(path.join(root, file)) || readFileSync(path.join(root, file), "utf8") !== source) continue;
    const met = new Set((files[file]?.mutants ?? []).map(identity));
    files[file] = {
      ...(files[file] ?? old.files[file]!),
      mutants: [...(files[file]?.mutants ?? []), ...mutants.filter((m) => !met.has(identity(m)))],
    };
  }
  writeFileSync(report, JSON.stringify({ ...now, files }));
}

async function run({ folder, paths, mutate }: Job): Promise<string> {
  const shown = paths.join(" ");
  const report = path.join(
    out,
    shown
      .replaceAll("lib/", "")
      .replaceAll(/[^\w.-]/g, "_")
      .slice(0, 100),
  );
  const started = Date.now();
  const json = `${report}.json`;
  if (values.again && !existsSync(json)) stop(name, `no ${json}: --again follows a whole run of the same paths`);
  const old = values.again ? read(json) : undefined;
  const todo = old ? again(old) : [...mutate];
  if (todo.length > 0)
    await new Stryker({
      configFile: "stryker.config.json",
      mutate: todo,
      testFiles: testFiles(folder),
      ignoreStatic: !values.static,
      concurrency: Number(values.concurrency),
      jsonReporter: { fileName: json },
      htmlReporter: { fileName: `${report}.html` },
    }).runMutationTest();
  if (old && todo.length > 0) carryOver(old, json);
  const results = Object.entries(read(json).files).flatMap(([file, { mutants }]) => mutants.map((m) => ({ file, ...m })));
  const count = (...states: string[]): number => results.filter(({ status }) => states.includes(status)).length;
  const killed = count("Killed", "Timeout");
  const left = results.filter(survived);
  for (const { file, location, mutatorName, replacement = "", status } of left) {
    const text = replacement.replaceAll(/\s+/g, " ").slice(0, 100);
    console.log(
      `${status === "NoCoverage" ? "no test " : "survived"} ${file}:${location.start.line}:${location.start.column} ${mutatorName} → ${text}`,
    );
  }
  const score = (100 * killed) / Math.max(1, killed + left.length);
  const seconds = Math.round((Date.now() - started) / 1000);
  const aside = `${count("Ignored")} ignored, ${count("RuntimeError", "CompileError")} broken`;
  return `${shown}: ${score.toFixed(1)} % (${killed} of ${killed + left.length} mutants killed, ${aside}, ${seconds} s)`;
}

const lines: string[] = [];
for (const job of jobs.values()) lines.push(await run(job));
for (const line of lines) console.log(line);
