// npm run check: types, lint, rules of the house (scripts/house-rules.ts) and format of TypeScript and C++, and the list of long files. `--fix` (npm run format) rewrites.

import { existsSync, readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { mutants } from "./mutants/index.ts";
import { placeOf } from "./mutants/mutant.ts";
import { capture, root, show } from "./run.ts";

const fix = process.argv.includes("--fix");
const longFile = 450;
const clangFormatVersion = "23.1.5";

type Result = "ok" | "FAILED" | "SKIPPED";
const result = (ok: boolean): Result => (ok ? "ok" : "FAILED");
/** A tool of node_modules. */
const tool = (name: string, ...args: string[]): Result => result(show(path.join(root, "node_modules", ".bin", name), args));

function filesUnder(folders: readonly string[], extensions: readonly string[]): string[] {
  return folders
    .filter((folder) => existsSync(path.join(root, folder)))
    .flatMap((folder) => readdirSync(path.join(root, folder), { recursive: true, encoding: "utf8" }).map((name) => path.join(folder, name)))
    .filter((file) => extensions.includes(path.extname(file)) && !file.includes("node_modules"))
    .sort();
}

/** The pinned clang-format: from PATH when it is that version, else its wheel in the git-ignored .venv; null without python. */
function clangFormat(): string | null {
  const has = (command: string): boolean => capture(command, ["--version"]).stdout.includes(` ${clangFormatVersion}`);
  if (has("clang-format")) return "clang-format";
  const target = path.join(root, ".venv", "clang-format");
  const installed = path.join(target, "clang_format", "data", "bin", "clang-format");
  if (has(installed)) return installed;
  const pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade", "--target", target];
  const { stderr } = capture("python3", [...pip, `clang-format==${clangFormatVersion}`]);
  if (has(installed)) return installed;
  console.log(stderr.includes("ENOENT") ? "python3 not found" : stderr.split("\n").at(-1));
  return null;
}

function checkNative(): Result {
  const clang = clangFormat();
  if (clang === null) return "SKIPPED";
  const files = filesUnder(["csrc", "bench", "test"], [".cc", ".h", ".cu", ".cuh"]);
  if (fix) return result(show(clang, ["-i", ...files]));
  const { ok, stderr } = capture(clang, ["--dry-run", "-Werror", ...files]);
  const first = new Map<string, string>();
  for (const [, file = "", line = ""] of stderr.matchAll(/^(.+?):(\d+):\d+: error/gm)) if (!first.has(file)) first.set(file, line);
  for (const [file, line] of first) console.log(`${file}:${line}: not formatted from here`);
  return result(ok);
}

/** Every planted bug of the native code has its place (npm run test:mutation:native). */
function checkMutants(): Result {
  const taken = new Map<string, { readonly from: number; readonly to: number }[]>();
  const wrong = mutants.flatMap((mutant) => {
    const file = path.join(root, "csrc", mutant.file);
    const place = existsSync(file) ? placeOf(readFileSync(file, "utf8"), mutant) : `csrc/${mutant.file} is not there`;
    if (typeof place === "string") return [place];
    const [others, to] = [taken.get(file) ?? [], place.from + place.original.length];
    taken.set(file, [...others, { from: place.from, to }]);
    return others.some((o) => place.from < o.to && o.from < to) ? [`csrc/${mutant.file}: two bugs at "${place.original}"`] : [];
  });
  for (const words of wrong) console.log(words);
  return result(wrong.length === 0);
}

const steps: [name: string, step: () => Result][] = [
  ["types of lib", () => tool("tsc", "-p", "tsconfig.json", "--noEmit")],
  ["types of everything", () => tool("tsc", "-p", "tsconfig.check.json")],
  ["oxlint", () => tool("oxlint", "--type-aware", "--tsconfig", "tsconfig.check.json", ...(fix ? ["--fix"] : []))],
  ["rules of the house", () => tool("tsx", "scripts/check-house.ts")],
  ["includes of csrc", () => tool("tsx", "scripts/check-includes.ts")],
  ["places of planted bugs", checkMutants],
  ["workflows", () => tool("tsx", "scripts/check-workflows.ts")],
  ["tree of ARCHITECTURE.md", () => tool("tsx", "scripts/tree.ts", ...(fix ? ["--write"] : []))],
  ["oxfmt", () => tool("oxfmt", fix ? "--write" : "--check", ".")],
  [`clang-format ${clangFormatVersion}`, checkNative],
];

const results = steps.map(([name, step]) => {
  console.log(`── ${name}`);
  const started = Date.now();
  return { name, result: step(), seconds: ((Date.now() - started) / 1000).toFixed(1) };
});

const long = filesUnder(["lib", "csrc", "test", "bench", "scripts", "examples"], [".ts", ".cjs", ".cc", ".h", ".cu", ".cuh", ".py"])
  .map((file) => ({ file, lines: readFileSync(path.join(root, file), "utf8").split("\n").length - 1 }))
  .filter(({ lines }) => lines > longFile)
  .sort((a, b) => b.lines - a.lines);
console.log(`── files over ${longFile} lines: ${long.length}`);
for (const { file, lines } of long) console.log(`${String(lines).padStart(6)}  ${file}`);

console.log("── summary");
for (const { name, result: how, seconds } of results) console.log(`${how.padEnd(8)} ${name} (${seconds} s)`);
const failed = results.filter(({ result: how }) => how === "FAILED").length;
if (failed > 0 && !fix) console.log("formatting is repaired by: npm run format");
process.exitCode = failed > 0 ? 1 : 0;
