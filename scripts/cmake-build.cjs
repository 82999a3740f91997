// Builds native code: node scripts/cmake-build.cjs [Release|Debug] [--cuda|--emu]
//   (nothing)  the addon, and libesft_cuda.so where nvcc is found (ESFT_CUDA=ON or OFF in the environment decides otherwise)
//   --cuda     both, with nvcc fetched where there is none
//   --emu      libesft_cuda_emu.so and emu_test: the CUDA sources under the C++ compiler
// `configure` then `build`, not `compile`: that one repeats a failed build from scratch.
"use strict";
const { spawnSync } = require("node:child_process");
const { existsSync, readFileSync, rmSync } = require("node:fs");
const os = require("node:os");
const path = require("node:path");

const root = path.resolve(__dirname, "..");
const config = process.argv[2] === "Debug" ? "Debug" : "Release";
const emulation = process.argv.includes("--emu");
const out = path.join(root, "build-cmake", emulation ? "emu" : config);
const cli = require.resolve("cmake-js/bin/cmake-js");
const env = { ...process.env };
let cuda = emulation ? "OFF" : (env.ESFT_CUDA ?? "AUTO");
if (process.argv.includes("--cuda")) {
  try {
    env.CUDACXX = require("./cuda-toolkit.cjs").ensureNvcc().nvcc;
  } catch (error) {
    console.error(`esft: ${error.message}`);
    process.exit(1);
  }
  cuda = "ON";
}

// CMake refuses the cache of a moved clone, and one whose nvcc is gone.
const cache = path.join(out, "CMakeCache.txt");
if (existsSync(cache)) {
  const text = readFileSync(cache, "utf8");
  const nvcc = /^CMAKE_CUDA_COMPILER:\w+=(\/.*)$/m.exec(text)?.[1];
  if (!text.includes(`CMAKE_HOME_DIRECTORY:INTERNAL=${root}\n`) || (nvcc && !existsSync(nvcc))) {
    rmSync(out, { recursive: true, force: true });
  }
}

function run(command, ...extra) {
  const args = [cli, command, "--directory", root, "--out", out, "--config", config, ...extra];
  const result = spawnSync(process.execPath, args, { stdio: "inherit", cwd: root, env });
  if (result.status !== 0) {
    console.error(`esft: native build failed at "cmake-js ${command}". It needs cmake >= 3.24 and g++ >= 10 (or clang).`);
    process.exit(result.status ?? 1);
  }
}
run(
  "configure",
  `--CDESFT_STATIC_CXX=${env.ESFT_STATIC_CXX ? "ON" : "OFF"}`,
  `--CDESFT_CUDA=${cuda}`,
  `--CDESFT_EMU=${emulation ? "ON" : "OFF"}`,
);
run("build", "--parallel", String(Math.max(1, os.availableParallelism())), ...(emulation ? ["--target", "emu"] : []));
