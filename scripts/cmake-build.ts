// Builds native code: npx tsx scripts/cmake-build.ts [Release|Debug] [--cuda [--debug]|--emu]
//   (nothing)  the addon, and libesft_cuda.so where nvcc is found (ESFT_CUDA=ON or OFF in the environment decides otherwise)
//   --cuda     both, with nvcc fetched where there is none; --debug: libesft_cuda_debug.so as well (csrc/cuda/bounded_wait.cuh)
//   --emu      libesft_cuda_emu.so and emu_test: the CUDA sources under the C++ compiler
// `configure` then `build`, not `compile`: that one repeats a failed build from scratch.

import { spawnSync } from "node:child_process";
import { existsSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import os from "node:os";
import path from "node:path";
import { ensureNvcc } from "./cuda-toolkit.ts";
import { root, stop } from "./run.ts";

const config = process.argv[2] === "Debug" ? "Debug" : "Release";
const emulation = process.argv.includes("--emu");
const out = path.join(root, "build-cmake", emulation ? "emu" : config);
const cli = createRequire(import.meta.url).resolve("cmake-js/bin/cmake-js");
const env = { ...process.env };
let cuda = emulation ? "OFF" : (env["ESFT_CUDA"] ?? "AUTO");
if (process.argv.includes("--cuda")) {
  try {
    env["CUDACXX"] = ensureNvcc();
  } catch (error) {
    stop("esft", error instanceof Error ? error.message : String(error));
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

function cmake(command: string, ...extra: string[]): void {
  const args = [cli, command, "--directory", root, "--out", out, "--config", config, ...extra];
  const { status } = spawnSync(process.execPath, args, { stdio: "inherit", cwd: root, env });
  if (status !== 0) {
    console.error(`esft: native build failed at "cmake-js ${command}". It needs cmake >= 3.24 and g++ >= 10 (or clang).`);
    process.exit(status ?? 1);
  }
}
cmake(
  "configure",
  `--CDESFT_STATIC_CXX=${env["ESFT_STATIC_CXX"] ? "ON" : "OFF"}`,
  `--CDESFT_CUDA=${cuda}`,
  `--CDESFT_CUDA_DEBUG=${process.argv.includes("--debug") ? "ON" : "OFF"}`,
  `--CDESFT_EMU=${emulation ? "ON" : "OFF"}`,
);
cmake("build", "--parallel", String(Math.max(1, os.availableParallelism())), ...(emulation ? ["--target", "emu"] : []));
