// The tests of test/cuda (case tables, golden models, determinism):
//   npm run test:gpu [-- vitest arguments]   on the GPU; fails where there is none
//   npm run test:emu [-- vitest arguments]   on the emulation, after its own tests (emu_test)
// ESFT_CUDA_LIBRARY names another library than the one in build/Release.
"use strict";
const { spawnSync } = require("node:child_process");
const { existsSync } = require("node:fs");
const path = require("node:path");

const root = path.resolve(__dirname, "..");
const release = path.join(root, "build", "Release");
const emulation = process.argv[2] === "--emu";
const given = process.argv.slice(3);
const library = path.resolve(process.env.ESFT_CUDA_LIBRARY ?? path.join(release, `libesft_cuda${emulation ? "_emu" : ""}.so`));
const env = { ...process.env, ESFT_CUDA_LIBRARY: library };
const name = emulation ? "test:emu" : "test:gpu";

function stop(message) {
  console.error(`${name}: ${message}`);
  process.exit(1);
}

function run(command, args) {
  const { status, signal, error } = spawnSync(command, args, { cwd: root, stdio: "inherit", env });
  if (status !== 0) stop(`${path.basename(command)} ${args[0] ?? ""} failed (${error?.message ?? signal ?? status})`);
}

if (!existsSync(library)) stop(`no ${library}; ${emulation ? "npm run build:emu" : "npm run build:cuda"} builds it`);
process.env.ESFT_CUDA_LIBRARY = library;
try {
  const native = require(path.join(release, "esft.node"));
  const device = new native.Device("cuda", 1, 0);
  const info = device.info();
  device.dispose();
  if (info.emulated !== emulation) {
    if (emulation) stop(`${library} is not the emulation`);
    console.log(`${name}: ${library} is the emulation, not a GPU`);
  }
  console.log(`${name}: ${info.name}`);
} catch (error) {
  stop(error.message);
}
if (emulation) run(path.join(release, "emu_test"), []);
const chosen = given.some((a) => !a.startsWith("-") && a.includes("test/")) ? given : ["test/cuda", ...given];
run(process.execPath, [path.join(root, "node_modules", "vitest", "vitest.mjs"), "run", ...chosen]);
