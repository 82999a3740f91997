// Mutation testing of TypeScript with StrykerJS: npm run test:mutation [-- PATH …] [--static] [--concurrency N]
//   PATH           a folder of the table below, or files of one (default: every folder of it, one after the other)
//   --static       also mutants of what runs while a module loads (tables, schemas): each costs all tests of the folder
//   --concurrency  test processes at once (2)
//
// Only the folder's own tests run: they are to notice what breaks; golden numbers and CLI runs are the second net. Prints the score and
// every survivor, writes out/mutation/NAME.json and .html. Not mutated: the words of errors (mutation-ignore.ts). StrykerJS works in a
// copy below .stryker-tmp and keeps vitest's workers in threads, so each mutant opens the addon of build/Release in a new environment of
// one process.

import { existsSync, mkdirSync, readdirSync, statSync } from "node:fs";
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
  "lib/data": ["test/data", "test/text"],
  "lib/text": ["test/text"],
  "lib/files": ["test/files", "!test/files/crash_matrix.test.ts"],
  "lib/model/weights": ["test/model", "test/methods"],
  "lib/model": ["test/model", "test/methods"],
};

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { static: { type: "boolean", default: false }, concurrency: { type: "string", default: "2" } },
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
  const files = folders.flatMap((f) => readdirSync(path.join(root, f), { recursive: true, encoding: "utf8" }).map((file) => `${f}/${file}`));
  return files.filter((file) => file.endsWith(".test.ts") && !named.includes(`!${file}`)).sort();
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
  const results = await new Stryker({
    configFile: "stryker.config.json",
    mutate: [...mutate],
    testFiles: testFiles(folder),
    ignoreStatic: !values.static,
    concurrency: Number(values.concurrency),
    jsonReporter: { fileName: `${report}.json` },
    htmlReporter: { fileName: `${report}.html` },
  }).runMutationTest();
  const count = (...states: string[]): number => results.filter(({ status }) => states.includes(status)).length;
  const killed = count("Killed", "Timeout");
  const left = results.filter(({ status }) => status === "Survived" || status === "NoCoverage");
  for (const { fileName, location, mutatorName, replacement = "", status } of left) {
    const place = `${path.relative(root, fileName)}:${location.start.line + 1}:${location.start.column + 1}`;
    const text = replacement.replaceAll(/\s+/g, " ").slice(0, 100);
    console.log(`${status === "NoCoverage" ? "no test " : "survived"} ${place} ${mutatorName} → ${text}`);
  }
  const score = (100 * killed) / Math.max(1, killed + left.length);
  const seconds = Math.round((Date.now() - started) / 1000);
  const aside = `${count("Ignored")} ignored, ${count("RuntimeError", "CompileError")} broken`;
  return `${shown}: ${score.toFixed(1)} % (${killed} of ${killed + left.length} mutants killed, ${aside}, ${seconds} s)`;
}

const lines: string[] = [];
for (const job of jobs.values()) lines.push(await run(job));
for (const line of lines) console.log(line);
