// npm run prebuildify, a part of npm pack: the addon of this machine for others of its platform, as
// prebuilds/<platform>-<arch>/esft[.<C library>].node, where node-gyp-build finds it. It needs nothing but the C library: the C++ one is
// linked in. The CUDA library goes beside it where this machine can build it.

import { readdirSync, rmSync } from "node:fs";
import path from "node:path";
import { root, showOrStop, typescript } from "./run.ts";

const folder = path.join(root, "prebuilds", `${process.platform}-${process.arch}`);
rmSync(folder, { recursive: true, force: true });

const prebuildify = path.join(root, "node_modules/prebuildify/bin.js");
const args = ["--napi", "--strip", "--tag-libc", "--name", "esft", "--node-gyp", path.join(root, "scripts/node-gyp-shim.cjs")];
showOrStop("prebuilds", process.execPath, [prebuildify, ...args]);

// prebuildify takes every shared library beside the addon along: of them the package has one, no emulation for tests.
for (const name of readdirSync(folder))
  if (name.endsWith(".node") || name === "libesft_cuda.so") console.error(`prebuilds: ${path.relative(root, path.join(folder, name))}`);
  else rmSync(path.join(folder, name));

showOrStop("prebuilds", process.execPath, [...typescript, path.join(root, "scripts/cmake-build.ts"), "Release"]); // the working build again
