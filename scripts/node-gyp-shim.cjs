#!/usr/bin/env node
// What prebuildify calls instead of node-gyp: a build through CMake, so that no Node headers are downloaded and neither
// python nor make is needed. Its arguments (rebuild --target=… --arch=…) do not matter to a Node-API addon.
// The CUDA library, where this machine can build it, goes beside the prebuilt addon.
"use strict";
const { spawnSync } = require("node:child_process");
const { copyFileSync, existsSync, mkdirSync } = require("node:fs");
const path = require("node:path");

process.env.ESFT_STATIC_CXX = "1";
process.argv[2] = process.argv.includes("--debug") ? "Debug" : "Release";
require("./cmake-build.cjs");

const root = path.resolve(__dirname, "..");
const library = path.join(root, "build", process.argv[2], "libesft_cuda.so");
if (existsSync(library)) {
  const prebuilds = path.join(root, "prebuilds", `${process.platform}-${process.arch}`);
  mkdirSync(prebuilds, { recursive: true });
  copyFileSync(library, path.join(prebuilds, "libesft_cuda.so"));
  spawnSync("strip", ["--strip-unneeded", path.join(prebuilds, "libesft_cuda.so")]); // smaller, where there is a strip
}
