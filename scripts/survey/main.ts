// npm run survey: what a machine with a GPU can teach in some minutes, most valuable first (stages.ts).
//   --seconds N      for everything (480; of a dry run at most 960, and it takes about one minute)
//   --dry-run        toy sizes, on the emulation too: every stage runs, nothing is measured
//   --only NAME …    these stages, with all the time
//   --out DIR        for survey.md, survey.json and what the stages print (results)
//   --began MS       when the time began (Date.now(); now)
//
// Each stage has a bound of its own. The report is written after every item, so a cut at any moment leaves what was found. ESFT_CUDA_LIBRARY
// names the library, else build/Release/libesft_cuda.so; probes run with NAME_debug.so beside NAME.so, where that is. Exit code: 0 when
// every stage is in order, 1 when not, 2 when nothing could begin.

import { existsSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import path from "node:path";
import { parseArgs } from "node:util";
import { capture, root, typescript } from "../run.ts";
import { advice } from "./advice.ts";
import { findPython, stopSearch } from "./python.ts";
import type { FoundPython } from "./python.ts";
import type { StageRecord, Survey } from "./record.ts";
import { close } from "./record.ts";
import { Report } from "./report.ts";
import { stages, WHOLE } from "./stages.ts";
import type { Stage } from "./stages.ts";
import { supervise } from "./supervise.ts";

/** Seconds at the end for the summary. */
const SUMMARY = 2;
/** Seconds that the search for PyTorch may hold up the first stage that needs it. */
const SEARCH = 30;

function refuse(message: string): never {
  console.error(`survey: ${message}`);
  process.exit(2);
}

function readOptions() {
  try {
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      options: {
        seconds: { type: "string" },
        "dry-run": { type: "boolean", default: false },
        only: { type: "boolean", default: false },
        out: { type: "string", default: "results" },
        began: { type: "string" },
      },
    });
    // A machine that makes toys may be busy: only what hangs should meet a bound.
    const seconds = Number(values.seconds ?? (values["dry-run"] ? 2 * WHOLE : WHOLE));
    if (!(seconds > 0) || !Number.isFinite(seconds)) refuse(`--seconds: expected a positive number, found "${values.seconds}"`);
    const unknown = positionals.find((name) => !stages.some((s) => s.name === name));
    if (unknown !== undefined) refuse(`expected stages (${stages.map((s) => s.name).join(", ")}), found "${unknown}"`);
    if (values.only !== positionals.length > 0) refuse("--only and names of stages belong together");
    const began = values.began === undefined ? Date.now() : Number(values.began);
    const chosen = values.only ? stages.filter((s) => positionals.includes(s.name)) : stages;
    return { seconds, dry: values["dry-run"], out: path.resolve(values.out), began, chosen };
  } catch (error) {
    return refuse((error as Error).message);
  }
}

function version(): string {
  const { ok, stdout } = capture("git", ["describe", "--always", "--dirty", "--abbrev=12"]);
  const file = path.join(root, "VERSION"); // of a folder made by pack:gpu
  return existsSync(file) ? readFileSync(file, "utf8").trim() : ok ? stdout.trim() : "unknown";
}

const { seconds, dry, out, began, chosen } = readOptions();
const library = path.resolve(process.env["ESFT_CUDA_LIBRARY"] ?? path.join(root, "build", "Release", "libesft_cuda.so"));
if (!existsSync(library)) refuse(`no ${library}: npm run build:cuda (or build:emu, and ESFT_CUDA_LIBRARY) builds one`);
const debugLibrary = library.replace(/(\.so)?$/, "_debug.so");
const logs = path.join(out, "survey");
rmSync(logs, { recursive: true, force: true });
mkdirSync(logs, { recursive: true });

const whole = chosen.reduce((sum, s) => sum + (s.seconds ?? WHOLE - stages.reduce((n, x) => n + (x.seconds ?? 0), 0)), 0);
const scale = seconds / whole;
const blank = ({ name, teaches, seconds: share, expected }: Stage): StageRecord => ({
  name,
  teaches,
  bound: share === null ? null : share * scale,
  expected: expected * scale,
  state: "waiting",
  status: "waiting",
  seconds: 0,
  notes: [],
  fault: null,
  items: [],
});
const survey: Survey = {
  format: 1,
  version: version(),
  began: new Date(began).toISOString(),
  seconds,
  dry,
  library,
  peer: dry ? "not asked for in a dry run" : "looked for",
  stages: chosen.map(blank),
  ended: null,
};
const report = new Report(survey, out);
const stop = new AbortController();
for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => stop.abort());
// A terminal that goes away ends nothing: the report is on disk.
process.on("SIGHUP", () => undefined);
for (const stream of [process.stdout, process.stderr]) stream.on("error", () => undefined);

let found: FoundPython | null = null;
const search = dry
  ? Promise.resolve()
  : findPython([process.env["PYTHON"], "python3", "/opt/peer/bin/python"]).then((result) => {
      found = result;
      survey.peer = result.words;
    });

/** A device that is there and cannot be opened makes every later stage fail in the same words. */
let noDevice: string | null = null;

async function runStage(stage: Stage, record: StageRecord): Promise<void> {
  const needsPeer = stage.name === "headline" || stage.name === "step";
  if (needsPeer) await Promise.race([search, new Promise((resolve) => setTimeout(resolve, SEARCH * 1000).unref())]);
  const left = began + (seconds - SUMMARY) * 1000;
  const until = Math.min(left, record.bound === null ? left : Date.now() + record.bound * 1000);
  const env: NodeJS.ProcessEnv = { ...process.env, ESFT_CUDA_LIBRARY: library };
  if (stage.debug) {
    const there = existsSync(debugLibrary);
    if (there) env["ESFT_CUDA_LIBRARY"] = debugLibrary;
    record.notes.push(there ? "with the debug library" : `without bounded waits: no ${path.basename(debugLibrary)} beside the library`);
  }
  const child = path.join(root, "scripts", "survey", "child.ts");
  await supervise(record, {
    command: [process.execPath, ...typescript, child],
    env,
    task: { dry, until, python: found?.python ?? null, dir: logs },
    log: path.join(logs, `${stage.name}.log`),
    changed: () => report.changed(),
    signal: stop.signal,
  });
}

console.log(`survey: ${seconds} s, ${out}/survey.md`);
await report.write();
for (const [i, record] of survey.stages.entries()) {
  const stage = chosen[i]!;
  if (stop.signal.aborted) break;
  if (noDevice !== null) {
    record.notes.push(`no device: ${noDevice}`);
    close(record, 0);
  } else await runStage(stage, record);
  const device = record.name === "machine" ? record.items.find((item) => item.name === "device") : undefined;
  if (device?.status === "failed" || device?.status === "died") noDevice = device.text;
  const emulated = (device?.data as { readonly emulated?: boolean } | undefined)?.emulated === true;
  if (emulated && !dry) noDevice = "the library is the emulation, which would take hours: use --dry-run";
  await report.write();
  console.log(`── ${record.name}: ${record.status} (${record.seconds.toFixed(1)} s)`);
}
stopSearch();
survey.ended = { seconds: (Date.now() - began) / 1000, how: stop.signal.aborted ? "interrupted" : "finished" };
await report.write();
for (const [i, text] of advice(survey).entries()) console.log(`${i + 1}. ${text}`);
console.log(`survey: ${survey.ended.how} after ${survey.ended.seconds.toFixed(0)} s; ${out}/survey.md`);
process.exit(survey.stages.every((s) => s.status === "ok") ? 0 : 1);
