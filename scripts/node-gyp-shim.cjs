#!/usr/bin/env node
// What prebuildify calls instead of node-gyp: a build through CMake, so that no Node headers are downloaded and neither
// python nor make is needed. Its arguments (rebuild --target=… --arch=…) do not matter to a Node-API addon.
// The CUDA library, where this machine can build it, goes beside the prebuilt addon.
// CommonJS: prebuildify starts this file itself, without a shell and without a loader for TypeScript.
"use strict";
const { spawnSync } = require("node:child_process");
const { copyFileSync, existsSync, mkdirSync } = require("node:fs");
const path = require("node:path");

const root = path.resolve(__dirname, "..");
const config = process.argv.includes("--debug") ? "Debug" : "Release";
const { status } = spawnSync(process.execPath, ["--import", "tsx", "scripts/cmake-build.ts", config], {
  cwd: root,
  stdio: "inherit",
  env: { ...process.env, ESFT_STATIC_CXX: "1" },
});
if (status !== 0) process.exit(status ?? 1);

const library = path.join(root, "build", config, "libesft_cuda.so");
if (existsSync(library)) {
  const prebuilds = path.join(root, "prebuilds", `${process.platform}-${process.arch}`);
  mkdirSync(prebuilds, { recursive: true });
  copyFileSync(library, path.join(prebuilds, "libesft_cuda.so"));
  spawnSync("strip", ["--strip-unneeded", path.join(prebuilds, "libesft_cuda.so")]); // smaller, where there is a strip
}
