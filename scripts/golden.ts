// npm run golden -- DIR [--only NAME …] [--device cpu|ref|cuda]
// Checks every fixture folder under DIR; one row each with the worst errors. Exit 0 only when all pass and at least one ran.

import { existsSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { openDevice } from "../lib/device.ts";
import type { DeviceChoice } from "../lib/device.ts";
import { checkFamily } from "../test/golden/family.ts";

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    only: { type: "boolean" },
    device: { type: "string", default: "cpu" },
    threads: { type: "string" },
    verbose: { type: "boolean" },
  },
});
const [dir, ...only] = positionals;
if (!dir || (only.length > 0 && !values.only)) {
  console.error("usage: npm run golden -- DIR [--only NAME …] [--device cpu|ref|cuda] [--verbose]");
  process.exit(2);
}
const folders = (await readdir(dir, { withFileTypes: true }))
  .filter((e) => e.isDirectory() && existsSync(join(dir, e.name, "golden.json")))
  .map((e) => e.name)
  .filter((name) => !values.only || only.includes(name))
  .sort();
const unknown = only.filter((name) => !folders.includes(name));
if (unknown.length > 0) console.error(`no fixture folder ${unknown.join(", ")} under ${dir}`);

const { device } = openDevice(values.device as DeviceChoice, values.threads ? { threads: Number(values.threads) } : {});
console.log(`device: ${device.info.backend}, ${device.info.instructionSet}, ${device.info.threads} threads`);
let passed = 0;
for (const name of folders) {
  const report = await checkFamily(device, join(dir, name), name);
  if (report.ok) passed++;
  const show = values.verbose ? report.checks : report.checks.filter((c) => !c.ok || c.limit > 0);
  const cells = show.map(
    (c) =>
      `${c.ok ? "" : "FAIL "}${c.name} ${c.error === 0 ? "0" : c.error.toExponential(1)}${c.ok && !values.verbose ? "" : ` (limit ${c.limit}${c.detail ? `, ${c.detail}` : ""})`}`,
  );
  console.log(`${report.ok ? "pass" : "FAIL"}  ${name.padEnd(20)} ${report.failure ?? ""}${cells.join(" · ")}`);
}
device.dispose();
console.log(`${passed} passed, ${folders.length - passed + unknown.length} failed`);
process.exit(passed > 0 && passed === folders.length && unknown.length === 0 ? 0 : 1);
