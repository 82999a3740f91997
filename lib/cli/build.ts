// esft build: the native addon from source, for platforms without a prebuild. Needs cmake and a C++17 compiler, no network: the
// Node-API headers are dependencies of the package. Never run at install.

import { spawnSync } from "node:child_process";
import { mkdirSync, rmdirSync, rmSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import type { Command } from "@commander-js/extra-typings";
import { CheckFailed } from "./common.ts";
import { root } from "./package.ts";
import type { Terminal } from "./terminal.ts";

export function registerBuild(program: Command, terminal: Terminal): void {
  program
    .command("build")
    .description("build the native addon from source, for platforms without a prebuild (needs cmake and a C++17 compiler)")
    .addHelpText("after", "\nExample:\n  npx esft build")
    .action(() => {
      const fault = build();
      if (fault === null) return terminal.print(`esft build: wrote ${join(root, "build", "Release", "esft.node")}`);
      terminal.note(`esft build: ${fault}`);
      throw new CheckFailed("build");
    });
}

/** Builds into build/Release, which the loader looks at first. @returns why it could not, or null */
function build(): string | null {
  if (spawnSync("cmake", ["--version"], { stdio: "ignore" }).error)
    return "cmake not found on PATH; install cmake >= 3.24 and a C++17 compiler (g++ >= 10 or clang)";
  const out = join(root, "build-cmake", "Source");
  try {
    rmSync(out, { recursive: true, force: true });
    mkdirSync(out, { recursive: true });
  } catch (error) {
    return `cannot write to ${out}: ${(error as Error).message}`;
  }
  for (const args of [
    ["-S", root, "-B", out, "-DCMAKE_BUILD_TYPE=Release"],
    ["--build", out, "--config", "Release", "--parallel", String(availableParallelism())],
  ]) {
    const { status } = spawnSync("cmake", args, { stdio: "inherit", cwd: root });
    if (status !== 0) return `"cmake ${args.join(" ")}" failed; the lines above say why`;
  }
  rmSync(out, { recursive: true, force: true });
  try {
    rmdirSync(join(out, ".."));
  } catch {
    // a clone builds there too
  }
  return null;
}
