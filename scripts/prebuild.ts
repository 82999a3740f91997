// npm run prebuilds, a part of npm pack: the addon of this machine for others of its platform, as
// prebuilds/<platform>-<arch>/esft[.<C library>].node, where node-gyp-build finds it. It needs nothing but the C library: the C++ one is
// linked in. The CUDA library goes beside it where this machine can build it.

import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, rmSync } from "node:fs";
import path from "node:path";
import { root, showOrStop, typescript } from "./run.ts";

const build = (env: NodeJS.ProcessEnv): void =>
  showOrStop("prebuilds", process.execPath, [...typescript, path.join(root, "scripts/cmake-build.ts"), "Release"], env);
const libc = process.platform !== "linux" ? "" : existsSync("/etc/alpine-release") ? ".musl" : ".glibc"; // as node-gyp-build tells them
const folder = path.join(root, "prebuilds", `${process.platform}-${process.arch}`);

build({ ...process.env, ESFT_STATIC_CXX: "1" });
mkdirSync(folder, { recursive: true });
for (const [from, to] of [
  ["esft.node", `esft${libc}.node`],
  ["libesft_cuda.so", "libesft_cuda.so"],
] as const) {
  const [built, target] = [path.join(root, "build/Release", from), path.join(folder, to)];
  rmSync(target, { force: true });
  if (!existsSync(built)) continue; // no nvcc here
  copyFileSync(built, target);
  if (process.platform === "linux") spawnSync("strip", ["--strip-unneeded", target]); // smaller, where there is a strip
  console.error(`prebuilds: ${path.relative(root, target)}`);
}
build(process.env); // the working build again
