// npm run golden -- DIR [--only NAME …]: the fixtures of a folder against the numbers of the libraries that made them. What is a
// fixture and how it is checked: test/golden. Exit 0 when all pass and at least one ran, 1 when not, 2 when it could not begin.

import { existsSync } from "node:fs";
import { parseArgs } from "node:util";
import { openDevice } from "../lib/device.ts";
import type { DeviceChoice } from "../lib/device.ts";
import type { Check, Outcome, Report } from "../test/golden/compare.ts";
import type { Device } from "../test/golden/model.ts";
import { findFixtures, isNamed, runFixture } from "../test/golden/runner.ts";
import type { Fixture } from "../test/golden/runner.ts";

const usage = "usage: npm run golden -- DIR [--only NAME …] [--served] [--device cpu|ref|cuda] [--threads N] [--verbose]";
const help = `${usage}

DIR is a folder with fixtures at any depth, one fixture, or a file of one.
  --only NAME …                     those with NAME in their path
  --served                          what the project does not serve is listed, and does not fail
  --tokenizers DIR, --templates DIR where text fixtures find what their own folder lacks
  --verbose                         every comparison with its bound`;

function stop(message: string): never {
  console.error(message);
  process.exit(2);
}
/** Runs what must work before any fixture does. */
function begin<T>(run: () => T): T {
  try {
    return run();
  } catch (error) {
    const [why] = (error instanceof Error ? error.message : String(error)).split(/\n|\. (?=[A-Z])/);
    return stop(`golden: ${why}`);
  }
}

function options() {
  const { positionals, values } = begin(() =>
    parseArgs({
      allowPositionals: true,
      options: {
        only: { type: "boolean" },
        served: { type: "boolean" },
        device: { type: "string", default: "cpu" },
        threads: { type: "string" },
        tokenizers: { type: "string", multiple: true },
        templates: { type: "string", multiple: true },
        verbose: { type: "boolean" },
        help: { type: "boolean" },
      },
    }),
  );
  if (values.help) {
    console.log(help);
    process.exit(0);
  }
  const [dir, ...only] = positionals;
  if (dir === undefined || only.length > 0 !== (values.only ?? false)) stop(usage);
  if (!existsSync(dir)) stop(`golden: no such file or folder: ${dir}`);
  return { ...values, dir, only };
}

function format({ name, error, limit, detail, ok }: Check, verbose: boolean): string {
  const bounds = verbose || !ok ? ` (limit ${limit}${detail ? `, ${detail}` : ""})` : "";
  return `${ok ? "" : "FAIL "}${name} ${error === 0 ? "0" : error.toExponential(1)}${bounds}`;
}

function print(name: string, { outcome, checks, compared, failures }: Report, width: number, verbose: boolean): void {
  const shown = checks.filter((c) => verbose || !c.ok || c.limit > 0).map((c) => format(c, verbose));
  const cells = outcome === "not served" ? failures : checks.length > 0 ? shown : [`${compared} compared`];
  console.log(`${outcome.padEnd(10)}  ${name.padEnd(width)}  ${cells.join(" · ")}`);
  if (outcome !== "FAIL") return;
  for (const failure of failures.slice(0, verbose ? failures.length : 5)) console.log(`      ${failure}`);
  if (failures.length > 5 && !verbose) console.log(`      … and ${failures.length - 5} more (--verbose)`);
}

const { dir, only, served = false, device: kind, threads, tokenizers = [], templates = [], verbose = false } = options();
const all: Fixture[] = begin(() => findFixtures(dir, { tokenizers, templates }));
if (all.length === 0) stop(`golden: no fixture under ${dir}`);
const unknown = only.filter((name) => !all.some((f) => isNamed(f, name)));
if (unknown.length > 0) stop(`golden: no fixture ${unknown.join(", ")} under ${dir}`);
const chosen = only.length === 0 ? all : all.filter((f) => only.some((name) => isNamed(f, name)));
const device: Device = begin(() => openDevice(kind as DeviceChoice, threads === undefined ? {} : { threads: Number(threads) }).device);
console.log(`device: ${device.info.backend}, ${device.info.instructionSet}, ${device.info.threads} threads`);

const counts: Record<Outcome, number> = { pass: 0, FAIL: 0, "not served": 0 };
const width = Math.max(...chosen.map(({ name }) => name.length));
for (const fixture of chosen) {
  const report = await runFixture(fixture, device);
  counts[report.outcome]++;
  print(fixture.name, report, width, verbose);
}
device.dispose();
const failed = counts.FAIL + (served ? 0 : counts["not served"]);
console.log(`${counts.pass} passed, ${counts.FAIL} failed, ${counts["not served"]} not served`);
process.exitCode = counts.pass > 0 && failed === 0 ? 0 : 1;
