// esft build: the native addon from source, for platforms without a prebuild. Needs cmake and a C++17 compiler, no network: the
// Node-API headers are dependencies of the package. Never run at install.

import { spawnSync } from "node:child_process";
import { mkdirSync, rmSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import type { Command } from "commander";
import { CheckFailed } from "./common.ts";
import { root } from "./package.ts";
import type { Terminal } from "./terminal.ts";

export function registerBuild(program: Command, terminal: Terminal): void {
  program
    .command("build")
    .description("build the native addon from source, for platforms without a prebuild (needs cmake and a C++17 compiler)")
    .addHelpText("after", "\nExample:\n  npx esft build")
    .action(() => {
      const { ok, message } = build();
      if (ok) return terminal.print(`esft build: ${message}`);
      terminal.note(`esft build: ${message}`);
      throw new CheckFailed("build");
    });
}

/** Builds into build/Release, which the loader looks at first. */
function build(): { readonly ok: boolean; readonly message: string } {
  const refuse = (message: string) => ({ ok: false, message });
  if (spawnSync("cmake", ["--version"], { stdio: "ignore" }).error)
    return refuse("cmake not found on PATH; install cmake >= 3.24 and a C++17 compiler (g++ >= 10 or clang)");
  const out = join(root, "build-cmake", "Source");
  try {
    rmSync(out, { recursive: true, force: true });
    mkdirSync(out, { recursive: true });
  } catch (error) {
    return refuse(`cannot write to ${out}: ${(error as Error).message}`);
  }
  for (const args of [
    ["-S", root, "-B", out, "-DCMAKE_BUILD_TYPE=Release"],
    ["--build", out, "--config", "Release", "--parallel", String(availableParallelism())],
  ]) {
    const { status } = spawnSync("cmake", args, { stdio: "inherit", cwd: root });
    if (status !== 0) return refuse(`"cmake ${args.join(" ")}" failed; the lines above say why`);
  }
  rmSync(out, { recursive: true, force: true });
  return { ok: true, message: `wrote ${join(root, "build", "Release", "esft.node")}` };
}
