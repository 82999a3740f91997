// What the stages that measure share: one case of the benchmark as an item, alone or beside PyTorch.

import path from "node:path";
import type { BenchCase } from "../../../bench/cases/case.ts";
import { line, noMeasurement } from "../../../bench/gpu/report.ts";
import type { GpuRow } from "../../../bench/gpu/row.ts";
import { gpuCases, problem } from "../../../bench/gpu/run.ts";
import { Session } from "../../../bench/gpu/session.ts";
import type { GpuOptions } from "../../../bench/gpu/session.ts";
import { Absent, Broken } from "../item.ts";
import type { Item, Outcome, StageContext } from "../item.ts";

/** What survey.json keeps of a measured case. */
export interface Measured {
  readonly row: GpuRow;
  /** Of whom the row speaks: "torch 2.11.0", or null where it ran alone. */
  readonly peer: string | null;
  /** Why it is no measurement; null: it is one. */
  readonly no: string | null;
  /** Clocks, power and temperature right after it, as nvidia-smi says them. */
  readonly gpu: string | null;
}

/** The case with this name. */
export function caseNamed(id: string, dry: boolean): BenchCase {
  const found = gpuCases(dry).find((c) => c.id === id);
  if (!found) throw new Error(`expected a case of the benchmark, found "${id}"; npm run bench -- --device cuda --list prints them`);
  return found;
}

interface Measuring {
  /** Seconds of slices per case. */
  readonly seconds: number;
  /** Null: alone. */
  readonly variants: RegExp | null;
}

// One session as long as nothing fails: starting PyTorch takes many seconds.
let sessions = 0;
let open: { readonly key: string; readonly session: Session } | null = null;
async function sessionOf(context: StageContext, cases: readonly BenchCase[], { seconds, variants }: Measuring): Promise<Session> {
  const key = `${seconds} ${variants}`;
  if (open?.key === key) return open.session;
  open?.session.close();
  const options: GpuOptions = {
    device: "cuda",
    cases,
    peer: context.python,
    variants: variants ?? /./,
    peers: variants ? "headline" : "none",
    seconds,
    json: path.join(context.dir, `bench-${process.pid}-${++sessions}.json`), // npm run bench -- --from reads them
    markdown: null,
    tiny: context.dry,
  };
  open = { key, session: await Session.start(options) };
  return open.session;
}

async function measure(context: StageContext, c: BenchCase, cases: readonly BenchCase[], how: Measuring): Promise<Outcome> {
  if (how.variants && context.python === null) throw new Absent("no python with torch here");
  const session = await sessionOf(context, cases, how);
  const row = await session.add(c);
  const report = session.report();
  if (!row) throw new Broken(report.failures[c.id] ?? "it failed");
  const no = noMeasurement(report);
  const peer = report.peer ? `torch ${report.peer["torch"]}` : null;
  const data: Measured = { row, peer, no, gpu: report.gpu.at(-1) ?? null };
  const text = line(row, no).slice(c.id.length).trim().replace(/\s{2,}/g, ", "); // prettier-ignore
  const wrong = problem(row);
  if (wrong !== null) throw new Broken(`${wrong}; ${text}`, data);
  if (how.variants && row.peer === null) {
    const why = Object.entries(row.others).map(([id, said]) => `${id.split("/").at(-1)}: ${said}`);
    throw new Absent(`PyTorch did not run (${why.join("; ") || "no such variant"}); ours: ${text}`, data);
  }
  return { text, data };
}

/** One item per case. `cases` are told to PyTorch together. */
export function benchItems(
  context: StageContext,
  cases: readonly BenchCase[],
  how: Measuring & Pick<Item, "optional" | "needs" | "patience">,
  suffix = "",
): Item[] {
  const { seconds, variants, ...item } = how;
  const measuring: Measuring = context.dry ? { seconds: 0.001, variants } : { seconds, variants };
  return cases.map((c) => ({ ...item, name: `${c.id}${suffix}`, run: () => measure(context, c, cases, measuring) }));
}
