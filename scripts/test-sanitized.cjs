// npm run test:asan [-- vitest arguments]: the tests of native code on an addon built with AddressSanitizer and UBSan (build-asan/).
// Two instruction sets are built: the portable one and the best of this machine. Any finding ends the test process.
"use strict";
const { execFileSync, spawnSync } = require("node:child_process");
const { existsSync, readFileSync, realpathSync } = require("node:fs");
const os = require("node:os");
const path = require("node:path");

const root = path.resolve(__dirname, "..");
const out = path.join(root, "build-asan", "cmake");

function bestInstructionSet() {
  if (process.arch !== "x64" || !existsSync("/proc/cpuinfo")) return [];
  const flags = new Set(/^flags\s*:(.*)$/m.exec(readFileSync("/proc/cpuinfo", "utf8"))?.[1].split(" "));
  const has = (...names) => names.every((name) => flags.has(name));
  if (!has("avx2", "fma")) return [];
  if (!has("avx512f", "avx512bw", "avx512vl", "avx512dq")) return ["avx2"];
  return [has("avx512_bf16") ? "avx512bf16" : "avx512"];
}

function run(command, args, env = {}) {
  const { status, signal } = spawnSync(command, args, { cwd: root, stdio: "inherit", env: { ...process.env, ...env } });
  if (status !== 0) {
    console.error(`test:asan: ${command} ${args[0]} failed (${signal ?? status})`);
    process.exit(status ?? 1);
  }
}

const isas = [...bestInstructionSet(), "baseline"];
run("cmake", [
  "-S",
  root,
  "-B",
  out,
  "-DESFT_SANITIZE=ON",
  "-DESFT_CUDA=OFF",
  `-DESFT_ISAS=${isas.join(";")}`,
  "-DCMAKE_BUILD_TYPE=Release",
]);
run("cmake", ["--build", out, "--parallel", String(os.availableParallelism())]);

// libstdc++ beside libasan: the sanitizer must find the functions of exceptions before node loads the addon.
const compiler = /^CMAKE_CXX_COMPILER:\w+=(.*)$/m.exec(readFileSync(path.join(out, "CMakeCache.txt"), "utf8"))?.[1] ?? "g++";
const library = (name) => realpathSync(execFileSync(compiler, [`-print-file-name=${name}`], { encoding: "utf8" }).trim());
const given = process.argv.slice(2);
const native = ["test/ops", "test/addon", "test/model", "test/moe_model", "test/package/devices", "test/files/safetensors"];
const chosen = given.some((a) => !a.startsWith("-")) ? given : [...native, ...given];
run(process.execPath, [path.join("node_modules", "vitest", "vitest.mjs"), "run", ...chosen], {
  LD_PRELOAD: [library("libasan.so"), library("libstdc++.so.6")].join(":"),
  ASAN_OPTIONS: "detect_leaks=0:abort_on_error=1:handle_segv=1:allocator_may_return_null=1",
  UBSAN_OPTIONS: "print_stacktrace=1:halt_on_error=1",
  ESFT_NATIVE: path.join(root, "build-asan", "esft.node"),
});
