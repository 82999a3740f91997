// Builds the addon inside an installed package, for platforms without a prebuild: `npx esft build`, or
// `node node_modules/esft/scripts/source-build.cjs`. Needs cmake and a C++17 compiler, no network: the Node-API headers are
// dependencies of the package. Never run at install.
"use strict";
const { spawnSync } = require("node:child_process");
const { mkdirSync, rmSync } = require("node:fs");
const os = require("node:os");
const path = require("node:path");

const root = path.resolve(__dirname, "..");

/** Builds into build/Release, which the loader looks at first. Returns { ok, message }. */
function sourceBuild() {
  const missing = ["cmake"].filter((tool) => spawnSync(tool, ["--version"], { stdio: "ignore" }).error);
  if (missing.length > 0) {
    return {
      ok: false,
      message: `esft build: ${missing.join(", ")} not found on PATH; install cmake >= 3.24 and a C++17 compiler (g++ >= 10 or clang)`,
    };
  }
  const out = path.join(root, "build-cmake", "Source");
  try {
    rmSync(out, { recursive: true, force: true });
    mkdirSync(out, { recursive: true });
  } catch (error) {
    return { ok: false, message: `esft build: cannot write to ${out}: ${error.message}` };
  }
  const steps = [
    ["-S", root, "-B", out, "-DCMAKE_BUILD_TYPE=Release"],
    ["--build", out, "--config", "Release", "--parallel", String(os.availableParallelism())],
  ];
  for (const args of steps) {
    const { status } = spawnSync("cmake", args, { stdio: "inherit", cwd: root });
    if (status !== 0) return { ok: false, message: `esft build: "cmake ${args.join(" ")}" failed; the lines above say why` };
  }
  rmSync(out, { recursive: true, force: true });
  return { ok: true, message: `esft build: wrote ${path.join(root, "build", "Release", "esft.node")}` };
}

module.exports = { sourceBuild };

if (require.main === module) {
  const { ok, message } = sourceBuild();
  (ok ? console.log : console.error)(message);
  process.exitCode = ok ? 0 : 1;
}
