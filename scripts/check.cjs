// npm run check: types, lint and format of TypeScript and C++, and the list of long files. `--fix` (npm run format) rewrites.
"use strict";
const { spawnSync } = require("node:child_process");
const { existsSync, readdirSync, readFileSync } = require("node:fs");
const path = require("node:path");

const root = path.resolve(__dirname, "..");
const fix = process.argv.includes("--fix");
const longFile = 450;
const clangFormatVersion = "23.1.5";

const bin = (name) => path.join(root, "node_modules", ".bin", name);
const run = (command, args, stdio = "inherit") => spawnSync(command, args, { cwd: root, stdio, encoding: "utf8" });

function filesUnder(folders, extensions) {
  return folders
    .filter((folder) => existsSync(path.join(root, folder)))
    .flatMap((folder) => readdirSync(path.join(root, folder), { recursive: true }).map((name) => path.join(folder, name)))
    .filter((file) => extensions.includes(path.extname(file)) && !file.includes("node_modules"))
    .sort();
}

/** The pinned clang-format: from PATH when it is that version, else its wheel in the git-ignored .venv; null without python. */
function clangFormat() {
  const has = (command) => run(command, ["--version"], "pipe").stdout?.includes(` ${clangFormatVersion}`);
  if (has("clang-format")) return "clang-format";
  const target = path.join(root, ".venv", "clang-format");
  const installed = path.join(target, "clang_format", "data", "bin", "clang-format");
  if (has(installed)) return installed;
  const pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade", "--target", target];
  const result = run("python3", [...pip, `clang-format==${clangFormatVersion}`], "pipe");
  if (has(installed)) return installed;
  console.log(result.error ? "python3 not found" : String(result.stderr).trim().split("\n").at(-1));
  return null;
}

const steps = [
  ["types of lib", () => run(bin("tsc"), ["-p", "tsconfig.json", "--noEmit"]).status],
  ["types of everything", () => run(bin("tsc"), ["-p", "tsconfig.check.json"]).status],
  ["includes of csrc", () => run(process.execPath, ["--import", "tsx", "scripts/check-includes.ts"]).status],
  ["oxlint", () => run(bin("oxlint"), ["--type-aware", "--tsconfig", "tsconfig.check.json", ...(fix ? ["--fix"] : [])]).status],
  ["oxfmt", () => run(bin("oxfmt"), [fix ? "--write" : "--check", "."]).status],
  [
    `clang-format ${clangFormatVersion}`,
    () => {
      const tool = clangFormat();
      if (!tool) return "skipped";
      const files = filesUnder(["csrc", "bench", "test"], [".cc", ".h", ".cu", ".cuh"]);
      if (fix) return run(tool, ["-i", ...files]).status;
      const { status, stderr } = run(tool, ["--dry-run", "-Werror", ...files], "pipe");
      const places = stderr.matchAll(/^(.+?):(\d+):\d+: error/gm);
      const first = new Map();
      for (const [, file, line] of places) if (!first.has(file)) first.set(file, line);
      for (const [file, line] of first) console.log(`${file}:${line}: not formatted from here`);
      return status;
    },
  ],
];

const results = steps.map(([name, step]) => {
  console.log(`── ${name}`);
  const started = Date.now();
  const status = step();
  return {
    name,
    result: status === 0 ? "ok" : status === "skipped" ? "SKIPPED" : "FAILED",
    seconds: ((Date.now() - started) / 1000).toFixed(1),
  };
});

const long = filesUnder(["lib", "csrc", "test", "bench", "scripts", "examples"], [".ts", ".cjs", ".cc", ".h", ".cu", ".cuh", ".py"])
  .map((file) => ({ file, lines: readFileSync(path.join(root, file), "utf8").split("\n").length - 1 }))
  .filter(({ lines }) => lines > longFile)
  .sort((a, b) => b.lines - a.lines);
console.log(`── files over ${longFile} lines: ${long.length}`);
for (const { file, lines } of long) console.log(`${String(lines).padStart(6)}  ${file}`);

console.log("── summary");
for (const { name, result, seconds } of results) console.log(`${result.padEnd(8)} ${name} (${seconds} s)`);
const failed = results.filter(({ result }) => result === "FAILED").length;
if (failed > 0 && !fix) console.log("formatting is repaired by: npm run format");
process.exitCode = failed > 0 ? 1 : 0;
