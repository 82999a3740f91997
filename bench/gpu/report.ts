// Tables of a GPU run: a line per case while it runs, the floors, and the section of RESULTS.md.

import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { ConfigError } from "../../lib/errors.ts";
import { parts } from "../cases/case.ts";
import { judge } from "./floors.ts";
import type { Judged } from "./floors.ts";
import type { GpuReport, GpuRow } from "./row.ts";

const BEGIN = "<!-- gpu: written by the benchmark -->";
const END = "<!-- gpu: end -->";

const tflops = (r: GpuRow): number | null => (r.flops ? r.flops / r.ms / 1e9 : null);
const tbs = (r: GpuRow): number | null => (r.bytes ? r.bytes / r.ms / 1e9 : null);
const times = (ms: number): string => (ms < 1 ? `${(ms * 1000).toFixed(1)} µs` : `${ms.toFixed(ms < 100 ? 3 : 1)} ms`);
const digits = (x: number): string => (Math.abs(x) >= 100 ? x.toFixed(0) : Math.abs(x) >= 10 ? x.toFixed(1) : x.toFixed(2));
const percent = (x: number): string => `${(x * 100).toFixed(0)} %`;
/** Bound by arithmetic when it has products, by bytes otherwise; whole steps by neither alone: tokens. */
function rate(r: GpuRow): string {
  if (parts(r.id).what === "step" && r.tokensPerSecond !== null) return `${Math.round(r.tokensPerSecond)} tok/s`;
  const flops = tflops(r);
  const bytes = tbs(r);
  if (flops !== null) return `${digits(flops)} TFLOP/s`;
  return bytes === null ? "" : `${digits(bytes)} TB/s`;
}
function share(r: GpuRow): string {
  const flops = tflops(r);
  const bytes = tbs(r);
  if (flops !== null) return r.cublas ? `${percent(flops / r.cublas)} of cuBLAS` : "";
  return bytes !== null && r.copy ? `${percent(bytes / r.copy)} of copy` : "";
}
const variant = (id: string): string => id.split("/").at(-1)!;

/** What is said of times that no rates and no shares are made of: of the emulation, and of tiny sizes. Null: they are a measurement. */
export function noMeasurement({ machine, tiny }: Pick<GpuReport, "machine" | "tiny">): string | null {
  return machine.emulated ? "emulated: not a measurement" : tiny ? "tiny sizes: not a measurement" : null;
}

/** One case. */
export function line(r: GpuRow, no: string | null): string {
  const spread = `${times(r.times.p10)}–${times(r.times.p90)}`;
  const eager = r.how === "graph" ? `eager ${times(r.eager.median)}` : "eager";
  const peer = !r.peer ? "" : no !== null ? variant(r.peer.id) : `${r.speedup!.toFixed(2)}× ${variant(r.peer.id)} (${times(r.peer.ms)})`;
  const wrong = [...(r.bitIdentical === false ? ["BITS DIFFER"] : []), ...(r.finite ? [] : ["NOT FINITE OR NOT WRITTEN"])].join(" ");
  return [
    r.id.padEnd(52),
    times(r.ms).padStart(10),
    spread.padStart(22),
    ...(no !== null ? [no] : [rate(r).padStart(14), share(r).padStart(14)]),
    eager.padStart(18),
    peer,
    wrong,
  ]
    .join("  ")
    .trimEnd();
}

const value = (j: Judged): string => (j.value === null ? "not measured" : `${digits(j.value)} ${j.floor.unit}`);
const sign = { min: "≥", max: "≤" } as const;
const verdict = { "not measured": "–", missed: "**missed**", floor: "reached", stretch: "stretch reached" } as const;

export function floorLines(rows: readonly GpuRow[]): string[] {
  return judge(rows).map((j) => {
    const limits = `${sign[j.floor.sense]} ${j.floor.floor} (${j.floor.stretch}) ${j.floor.unit}`;
    const peer = j.speedup === null ? "" : `${j.speedup.toFixed(2)}× PyTorch`;
    return `${j.floor.name.padEnd(48)} ${value(j).padStart(18)}   ${limits.padEnd(28)} ${j.verdict.padEnd(12)} ${peer}`.trimEnd();
  });
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const row = (cells: readonly string[]): string => `| ${cells.join(" | ")} |`;
  return [row(head), row(head.map(() => "---")), ...rows.map(row)].join("\n");
}

/** The table of the floors; with no rows the empty one. */
export function floorTable(rows: readonly GpuRow[]): string {
  return table(
    ["floor (stretch)", "measured", "", "against PyTorch"],
    judge(rows).map((j) => [
      `${j.floor.name} ${sign[j.floor.sense]} ${j.floor.floor} (${j.floor.stretch}) ${j.floor.unit}`,
      value(j),
      verdict[j.verdict],
      j.speedup === null ? "" : `${j.speedup.toFixed(2)}×`,
    ]),
  );
}

function caseTable(rows: readonly GpuRow[]): string {
  return table(
    ["case", "median", "p10–p90", "rate", "share", "eager", "extra memory", "fastest PyTorch", "same bits"],
    rows.map((r) => [
      `\`${r.id}\``,
      times(r.ms),
      `${times(r.times.p10)}–${times(r.times.p90)}`,
      rate(r),
      share(r),
      r.how === "graph" ? times(r.eager.median) : "",
      r.extraBytes > 0 ? `${(r.extraBytes / 2 ** 20).toFixed(0)} MiB` : "",
      r.peer ? `${variant(r.peer.id)} ${times(r.peer.ms)}, ${r.speedup!.toFixed(2)}×` : "",
      r.bitIdentical ? "yes" : r.bitIdentical === null ? "" : "**no**",
    ]),
  );
}

/** One line per model and length, a column per mode; each cell the rate, or the loss against uniform routing. */
function layerTable(rows: readonly GpuRow[]): string {
  const byId = new Map(rows.map((r) => [r.id, r]));
  const configs = [...new Set(rows.filter((r) => r.id.startsWith("layer/")).map((r) => r.id.split("/")[1]!))];
  const modes = ["fwd", "bwd-none", "bwd-esft", "bwd-all"];
  const cell = (config: string, mode: string): string => {
    const row = byId.get(`layer/${config}/bf16/${mode}`);
    const own = row ? tflops(row) : null;
    if (!row || own === null) return "";
    const uniform = byId.get(`layer/${config.replace(/-[^-]+$/, "-uniform")}/bf16/${mode}`);
    const base = uniform && uniform !== row ? tflops(uniform) : null;
    const loss = base === null ? "" : `, ${((1 - own / base) * 100).toFixed(1)} % lost`;
    return `${digits(own)} (${times(row.ms)}${loss})`;
  };
  return table(["layer", ...modes], configs.map((config) => [config, ...modes.map((mode) => cell(config, mode))])); // prettier-ignore
}

/** The measured part of the GPU section. */
export function markdown(report: GpuReport): string {
  const { rows } = report;
  const versions = report.peer ? `PyTorch ${report.peer["torch"]}, transformers ${report.peer["transformers"]}` : "no PyTorch";
  const cublas = rows.map((r) => r.cublas).find((x) => x !== null);
  const copy = rows.map((r) => r.copy).find((x) => x !== null);
  const ceilings = [
    cublas ? `cuBLAS bf16 8192³ ${digits(cublas)} TFLOP/s` : "cuBLAS not measured (no PyTorch)",
    `copy ${copy ? `${digits(copy)} TB/s` : "not measured"}${report.ownCopy ? `, our own ${digits(report.ownCopy)} TB/s` : ""}`,
  ].join("; ");
  const others = rows.filter((r) => r.headline && !r.id.startsWith("layer/"));
  const layers = rows.filter((r) => r.headline && r.id.startsWith("layer/"));
  return [
    `${report.machine.name}, ${(report.machine.memoryBytes / 2 ** 30).toFixed(0)} GiB, ${report.machine.instructionSet}; ${versions}; commit ${report.commit}, ${report.date.slice(0, 10)}.`,
    ...report.gpu.map((text) => `\`${text}\``),
    `\n\`${report.command}\`\n`,
    `Ceilings of the same run: ${ceilings}.\n`,
    floorTable(rows),
    "\n### Ops and steps\n",
    caseTable(others),
    ...(layers.length > 0 ? ["\n### MoE layer against PyTorch\n", caseTable(layers)] : []),
    ...(rows.some((r) => r.id.startsWith("layer/"))
      ? ["\n### MoE layer, TFLOP/s (time, speed lost against uniform routing)\n", layerTable(rows)]
      : []),
    ...Object.entries(report.failures).map(([id, why]) => `\n\`${id}\` failed: ${why}`),
  ].join("\n");
}

/**
 * Puts the section into a file that has the two marks (bench/RESULTS.md), or makes the file.
 * @throws ConfigError the report is no measurement, or the file exists without the marks
 */
export function writeMarkdown(path: string, report: GpuReport): void {
  const no = noMeasurement(report);
  if (no !== null) throw new ConfigError(`${path}: nothing is written (${no})`);
  const section = `${BEGIN}\n${markdown(report)}\n${END}`;
  if (!existsSync(path)) return writeFileSync(path, `${section}\n`);
  const text = readFileSync(path, "utf8");
  const [begin, end] = [text.indexOf(BEGIN), text.indexOf(END)];
  if (begin < 0 || end < begin) throw new ConfigError(`${path}: expected the lines "${BEGIN}" and "${END}", found no such section`);
  writeFileSync(path, `${text.slice(0, begin)}${section}${text.slice(end + END.length)}`);
}
