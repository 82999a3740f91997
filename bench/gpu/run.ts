// npm run bench -- --device cuda: every case, beside PyTorch where it is there, judged against the floors.

import { readFileSync } from "node:fs";
import { ConfigError } from "../../lib/errors.ts";
import type { BenchCase } from "../cases/case.ts";
import { benchCases } from "../cases/index.ts";
import { floors } from "./floors.ts";
import { floorLines, noMeasurement, writeMarkdown } from "./report.ts";
import type { GpuReport, GpuRow } from "./row.ts";
import { Session } from "./session.ts";
import type { GpuOptions } from "./session.ts";

/** In the order of their weight: what the floors need, what is compared with PyTorch, the sweep. */
export function gpuCases(tiny: boolean): BenchCase[] {
  const needed = new Set(floors.flatMap((f) => f.cases));
  const rank = (c: BenchCase): number => (needed.has(c.id) ? 0 : c.headline ? 1 : 2);
  return benchCases("cuda", tiny).sort((a, b) => rank(a) - rank(b));
}

/** The report of earlier runs, nothing measured. */
export function reportGpu(files: readonly string[], markdown: string | null): number {
  return report(join(files), markdown);
}

/** The exit code: 1 when a case failed, gave other bits twice, or left its outputs unwritten. */
export async function runGpu(options: GpuOptions): Promise<number> {
  const { cases } = options;
  const session = await Session.start(options);
  try {
    for (const c of cases) await session.add(c);
    return report(session.report(), options.markdown);
  } finally {
    session.close();
  }
}

function report(of: GpuReport, markdownPath: string | null): number {
  console.log("");
  const no = noMeasurement(of);
  if (no !== null) console.log(markdownPath ? `${markdownPath} is not written; ${no}` : no);
  else {
    for (const text of floorLines(of.rows)) console.log(text);
    if (markdownPath) writeMarkdown(markdownPath, of);
  }
  const bad = of.rows.filter((r) => problem(r) !== null);
  for (const r of bad) console.log(`${r.id}: ${problem(r)}`);
  for (const [id, why] of Object.entries(of.failures)) console.log(`${id} failed: ${why}`);
  return bad.length > 0 || Object.keys(of.failures).length > 0 ? 1 : 0;
}

/** What is wrong with a row, whatever its time. */
export function problem(r: GpuRow): string | null {
  if (r.bitIdentical === false) return "two runs differ";
  if (!r.finite) return "outputs not finite or not written";
  return r.graphError == null ? null : `not recorded as a graph, timed eagerly: ${r.graphError}`;
}

/** @throws ConfigError no report */
function read(file: string): GpuReport {
  const text = readFileSync(file, "utf8");
  const wrong = (found: string): ConfigError =>
    new ConfigError(`${file}: expected a report that --device cuda --json wrote, found ${found}`);
  try {
    const report = JSON.parse(text) as Partial<GpuReport>;
    if (!Array.isArray(report.rows) || !report.machine || !report.failures) throw wrong("something else");
    return report as GpuReport;
  } catch (error) {
    if (error instanceof ConfigError) throw error;
    throw wrong("no JSON");
  }
}

/** Several JSON files as one report; of a case that is in two, the later one. */
function join(files: readonly string[]): GpuReport {
  const reports = files.map(read);
  const rows = new Map(reports.flatMap((r) => r.rows).map((row) => [row.id, row]));
  const failures = Object.fromEntries(reports.flatMap((r) => Object.entries(r.failures)).filter(([id]) => !rows.has(id)));
  return { ...reports[0]!, tiny: reports.some((r) => r.tiny), rows: [...rows.values()], failures };
}
