// Mutation testing of native code: npm run test:mutation:native [-- WORD …] [--only N,N] [--list]
//   WORD    only bugs whose file or text holds it
//   --only  those with these numbers
//   --list  names and numbers them, runs nothing
//
// scripts/mutants lists bugs by hand: checks, ties, tails, lifetimes, accumulation. A copy of csrc below out/mutation/native gets all of
// them, each behind a switch that ESFT_MUTANT turns on when the addon is loaded, so that one build serves; the shipped sources know
// nothing of it. Then the tests of each bug run with it on. They must fail, crash or hang; what passes is listed, and the exit code says so. A bug
// whose place is not in the source any more, or there twice, is an error: so is a test that fails without a bug.

import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { spawnSync } from "node:child_process";
import os from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { instructionSets } from "./instruction-set.ts";
import { mutants } from "./mutants/index.ts";
import { placeOf } from "./mutants/mutant.ts";
import type { Mutant } from "./mutants/mutant.ts";
import { capture, root, stop } from "./run.ts";

const name = "test:mutation:native";
const copy = path.join(root, "out", "mutation", "native");
/** Milliseconds; a bug may make the tests wait forever. */
const patience = 180_000;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { only: { type: "string" }, list: { type: "boolean", default: false } },
});
const only = values.only?.split(",").map(Number);
const chosen = mutants
  .map((mutant, i) => ({ mutant, id: i + 1 }))
  .filter(({ id }) => only?.includes(id) ?? true)
  .filter(({ mutant }) => positionals.every((word) => `${mutant.file} ${mutant.at} ${mutant.becomes}`.includes(word)));
const shown = ({ file, at, becomes }: Mutant): string => {
  const text = at.replaceAll(/\s+/g, " ");
  return `${file}: ${text.length > 110 ? `${text.slice(0, 107)}...` : text}  →  ${becomes || "(nothing)"}`;
};

interface Edit {
  readonly from: number;
  readonly to: number;
  readonly text: string;
}

/** Where a bug goes in its file, and what stands there then. */
function editOf(source: string, mutant: Mutant, id: number): Edit {
  const { becomes } = mutant;
  const place = placeOf(source, mutant);
  if (typeof place === "string") return stop(name, place);
  const { from, original } = place;
  const text = original.trimEnd().endsWith(";")
    ? `{ if (ESFT_MUTANT(${id})) { ${becomes} } else { ${original} } }`
    : `(ESFT_MUTANT(${id}) ? (${becomes}) : (${original}))`;
  return { from, to: from + original.length, text };
}

/** The file with all of its bugs. */
function planted(file: string, source: string): string {
  const edits = mutants.flatMap((mutant, i) => (mutant.file === file ? [editOf(source, mutant, i + 1)] : []));
  let text = source;
  let end = source.length;
  for (const edit of edits.toSorted((a, b) => b.from - a.from)) {
    if (edit.to > end) stop(name, `csrc/${file}: two bugs at "${source.slice(edit.from, edit.to)}"`);
    text = text.slice(0, edit.from) + edit.text + text.slice(edit.to);
    end = edit.from;
  }
  return text;
}

/** Writes what has changed only: the build then compiles no more than that. */
function write(file: string, text: string): void {
  const target = path.join(copy, file);
  mkdirSync(path.dirname(target), { recursive: true });
  if (!existsSync(target) || readFileSync(target, "utf8") !== text) writeFileSync(target, text);
}

const header = `#pragma once
#include <stdlib.h>
// Read once, when the addon is loaded; not inline: kernels are compiled for several instruction sets.
static const int esft_mutant = getenv("ESFT_MUTANT") ? atoi(getenv("ESFT_MUTANT")) : 0;
#define ESFT_MUTANT(id) (esft_mutant == (id))
`;

function build(): string {
  for (const file of readdirSync(path.join(root, "csrc"), { recursive: true, encoding: "utf8" })) {
    const at = path.join(root, "csrc", file);
    if (statSync(at).isFile()) write(path.join("csrc", file), planted(file, readFileSync(at, "utf8")));
  }
  for (const { file } of mutants) if (!existsSync(path.join(root, "csrc", file))) stop(name, `csrc/${file} is not there`);
  write("CMakeLists.txt", readFileSync(path.join(root, "CMakeLists.txt"), "utf8"));
  write("mutant.h", header);
  const to = path.join(copy, "cmake");
  const cmake = (...args: string[]): void => {
    const { ok, stdout, why } = capture("cmake", args);
    if (!ok) stop(name, `cmake ${args[0]}: ${why}\n${stdout.split("\n").slice(-40).join("\n")}`);
  };
  const isas = instructionSets();
  const options = ["-DCMAKE_BUILD_TYPE=Release", "-DESFT_CUDA=OFF", `-DESFT_ISAS=${isas.join(";")}`];
  cmake("-S", copy, "-B", to, ...options, `-DCMAKE_CXX_FLAGS=-include ${path.join(copy, "mutant.h")}`);
  cmake("--build", to, "--parallel", String(os.availableParallelism()));
  return path.join(copy, "build", "Release", "esft.node");
}

/** How the tests end with bug `id` on, in words; 0 = none is. */
function run(addon: string, tests: readonly string[], id: number): string {
  const vitest = path.join("node_modules", "vitest", "vitest.mjs");
  const { status, signal } = spawnSync(process.execPath, [vitest, "run", "--bail", "1", "--reporter", "dot", ...tests], {
    cwd: root,
    env: { ...process.env, ESFT_NATIVE: addon, ESFT_MUTANT: String(id) },
    stdio: id === 0 ? "inherit" : "ignore",
    timeout: patience,
    killSignal: "SIGKILL",
  });
  return signal === "SIGKILL" ? "hangs" : status === 0 ? "survived" : "killed";
}

if (values.list) {
  for (const { mutant, id } of chosen) console.log(`${String(id).padStart(4)} ${shown(mutant)}`);
  process.exit(0);
}
if (chosen.length === 0) stop(name, "no such bug; --list names them");
const addon = build();
const all = [...new Set(chosen.flatMap(({ mutant }) => mutant.tests))];
console.log(`${chosen.length} bugs; first ${all.length} test files without any`);
if (run(addon, all, 0) !== "survived") stop(name, "the tests fail without a planted bug");

const started = Date.now();
const survivors: string[] = [];
for (const { mutant, id } of chosen) {
  const began = Date.now();
  const how = run(addon, mutant.tests, id);
  if (how === "survived") survivors.push(`${id} ${shown(mutant)}`);
  console.log(`${how.padEnd(8)} ${String(id).padStart(4)} ${shown(mutant)} (${((Date.now() - began) / 1000).toFixed(1)} s)`);
}
for (const survivor of survivors) console.log(`survived: ${survivor}`);
const seconds = Math.round((Date.now() - started) / 1000);
console.log(`${name}: ${chosen.length - survivors.length} of ${chosen.length} bugs killed (${seconds} s)`);
process.exitCode = survivors.length > 0 ? 1 : 0;
