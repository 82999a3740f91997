// npm run test:asan [-- vitest arguments]: the tests of native code on an addon built with AddressSanitizer and UBSan (build-asan/).
// Two instruction sets are built: the portable one and the best of this machine. Any finding ends the test process.

import { execFileSync } from "node:child_process";
import { readFileSync, realpathSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { instructionSets } from "./instruction-set.ts";
import { root, showOrStop } from "./run.ts";

const name = "test:asan";
const out = path.join(root, "build-asan", "cmake");

const isas = instructionSets();
showOrStop(name, "cmake", [
  "-S",
  root,
  "-B",
  out,
  "-DESFT_SANITIZE=ON",
  "-DESFT_CUDA=OFF",
  `-DESFT_ISAS=${isas.join(";")}`,
  "-DCMAKE_BUILD_TYPE=Release",
]);
showOrStop(name, "cmake", ["--build", out, "--parallel", String(os.availableParallelism())]);

// libstdc++ beside libasan: the sanitizer must find the functions of exceptions before node loads the addon.
const compiler = /^CMAKE_CXX_COMPILER:\w+=(.*)$/m.exec(readFileSync(path.join(out, "CMakeCache.txt"), "utf8"))?.[1] ?? "g++";
const library = (file: string): string => realpathSync(execFileSync(compiler, [`-print-file-name=${file}`], { encoding: "utf8" }).trim());
const given = process.argv.slice(2);
const native = [
  "test/ops",
  "test/addon",
  "test/model",
  "test/moe_model",
  "test/golden/quantised",
  "test/package/devices",
  "test/files/safetensors",
];
const chosen = given.some((a) => !a.startsWith("-")) ? given : [...native, ...given];
showOrStop(name, process.execPath, [path.join("node_modules", "vitest", "vitest.mjs"), "run", ...chosen], {
  ...process.env,
  LD_PRELOAD: [library("libasan.so"), library("libstdc++.so.6")].join(":"),
  ASAN_OPTIONS: "detect_leaks=0:abort_on_error=1:handle_segv=1:allocator_may_return_null=1",
  UBSAN_OPTIONS: "print_stacktrace=1:halt_on_error=1",
  ESFT_NATIVE: path.join(root, "build-asan", "esft.node"),
});
