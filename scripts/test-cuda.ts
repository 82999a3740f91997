// The tests of test/cuda (case tables, golden models, determinism):
//   npm run test:gpu [-- vitest arguments]   on the GPU; fails where there is none
//   npm run test:emu [-- vitest arguments]   on the emulation, after its own tests (emu_test)
// ESFT_CUDA_LIBRARY names another library than the one in build/Release.

import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import type { Native } from "../lib/native.ts";
import { root, showOrStop, stop } from "./run.ts";

const release = path.join(root, "build", "Release");
const emulation = process.argv[2] === "--emu";
const given = process.argv.slice(3);
const library = path.resolve(process.env["ESFT_CUDA_LIBRARY"] ?? path.join(release, `libesft_cuda${emulation ? "_emu" : ""}.so`));
const name = emulation ? "test:emu" : "test:gpu";

if (!existsSync(library)) stop(name, `no ${library}; ${emulation ? "npm run build:emu" : "npm run build:cuda"} builds it`);
process.env["ESFT_CUDA_LIBRARY"] = library;
try {
  const native = createRequire(import.meta.url)(path.join(release, "esft.node")) as Native;
  const device = new native.Device("cuda", 1, 0);
  const info = device.info();
  device.dispose();
  if (info.emulated !== emulation) {
    if (emulation) stop(name, `${library} is not the emulation`);
    console.log(`${name}: ${library} is the emulation, not a GPU`);
  }
  console.log(`${name}: ${info.name}`);
} catch (error) {
  stop(name, error instanceof Error ? error.message : String(error));
}
if (emulation) showOrStop(name, path.join(release, "emu_test"), []);
const chosen = given.some((a) => !a.startsWith("-") && a.includes("test/")) ? given : ["test/cuda", ...given];
showOrStop(name, process.execPath, [path.join(root, "node_modules", "vitest", "vitest.mjs"), "run", ...chosen]);
