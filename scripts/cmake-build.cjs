// Builds the native addon: node scripts/cmake-build.cjs [Release|Debug]
// `configure` then `build`, not `compile`: that one repeats a failed build from scratch.
"use strict";
const { spawnSync } = require("node:child_process");
const { existsSync, readFileSync, rmSync } = require("node:fs");
const os = require("node:os");
const path = require("node:path");

const root = path.resolve(__dirname, "..");
const config = process.argv[2] === "Debug" ? "Debug" : "Release";
const out = path.join(root, "build-cmake", config);
const cli = require.resolve("cmake-js/bin/cmake-js");

// A moved clone has a cache that CMake refuses.
const cache = path.join(out, "CMakeCache.txt");
if (existsSync(cache) && !readFileSync(cache, "utf8").includes(`CMAKE_HOME_DIRECTORY:INTERNAL=${root}\n`)) {
  rmSync(out, { recursive: true, force: true });
}

function run(command, ...extra) {
  const args = [cli, command, "--directory", root, "--out", out, "--config", config, ...extra];
  const result = spawnSync(process.execPath, args, { stdio: "inherit", cwd: root });
  if (result.status !== 0) {
    console.error(`esft: native build failed at "cmake-js ${command}". It needs cmake >= 3.24 and g++ >= 10 (or clang).`);
    process.exit(result.status ?? 1);
  }
}
run("configure", `--CDESFT_STATIC_CXX=${process.env.ESFT_STATIC_CXX ? "ON" : "OFF"}`);
run("build", "--parallel", String(Math.max(1, os.availableParallelism())));
