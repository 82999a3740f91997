// What to do next, from what a survey has found: first what is wrong, since nothing after it can be believed, then what is slow.

import type { FloorRow } from "../../bench/gpu/floors.ts";
import { floors, judge } from "../../bench/gpu/floors.ts";
import type { Compared } from "./ab.ts";
import { isWrong } from "./record.ts";
import type { ItemRecord, StageRecord, Survey } from "./record.ts";
import type { Measured } from "./stages/bench.ts";

/** Of an H200: TFLOP/s of cuBLAS 8192³ and TB/s of a copy, where PyTorch did not measure them in the same run. */
const PEAK = { tflops: 788, tbs: 4.3 } as const;

/** Measured cases of every stage; of one that was measured more than once the row with the strongest peer. */
export function rowsOf(survey: Survey): Measured["row"][] {
  const rows = new Map<string, Measured["row"]>();
  const weight = (row: Measured["row"]): number => (row.speedup !== null ? 1 / row.speedup : row.cublas !== null ? 0 : -1);
  for (const { data } of survey.stages.flatMap((s) => s.items)) {
    const measured = data as Partial<Measured> | undefined;
    if (!measured?.row || measured.no !== null) continue;
    const before = rows.get(measured.row.id);
    if (!before || weight(measured.row) >= weight(before)) rows.set(measured.row.id, measured.row);
  }
  return [...rows.values()];
}

export interface Gap {
  readonly id: string;
  /** Our time over theirs. */
  readonly factor: number;
  readonly against: string;
}

/** How far every case is from its peer, and where that is slower or absent, from what the machine can do; widest first. */
export function gapsOf(
  rows: readonly (FloorRow & { readonly copy?: number | null; readonly peer?: { readonly id: string } | null })[],
): Gap[] {
  const behind = rows.flatMap((r): Gap[] =>
    r.speedup !== null && r.speedup < 1
      ? [{ id: r.id, factor: 1 / r.speedup, against: `PyTorch (${r.peer?.id.split("/").at(-1) ?? "fastest variant"})` }]
      : [],
  );
  const bound = rows.flatMap((r): Gap[] => {
    const arithmetic = (r.flops ?? 0) / (r.cublas ?? PEAK.tflops) / 1e9;
    const bytes = (r.bytes ?? 0) / (r.copy ?? PEAK.tbs) / 1e9;
    const least = Math.max(arithmetic, bytes);
    return least > 0 ? [{ id: r.id, factor: r.ms / least, against: arithmetic >= bytes ? "cuBLAS's rate" : "the rate of a copy" }] : [];
  });
  const widest = (gaps: Gap[]): Gap[] => gaps.sort((a, b) => b.factor - a.factor);
  const named = new Set(behind.map((g) => g.id));
  return [...widest(behind), ...widest(bound.filter((g) => !named.has(g.id)))];
}

/** Per flag: the mean change over its cases, and in how many the second value won. */
export function flagLines(survey: Survey): string[] {
  const all = survey.stages
    .flatMap((s) => s.items)
    .flatMap(({ data }) => {
      const compared = data as Partial<Compared> | undefined;
      return compared?.flag !== undefined && compared.no === null ? [compared as Compared] : [];
    });
  return [...new Set(all.map((c) => c.flag))].map((flag) => {
    const of = all.filter((c) => c.flag === flag);
    const mean = Math.exp(of.reduce((sum, c) => sum + Math.log(c.ratio), 0) / of.length);
    const won = of.filter((c) => c.ratio < 0.995).length;
    const lost = of.filter((c) => c.ratio > 1.005).length;
    const [first, second] = of[0]!.values;
    const change = `${((mean - 1) * 100).toFixed(1)} % time on average; faster in ${won}, slower in ${lost} of ${of.length} cases`;
    const verdict = mean < 0.995 && lost === 0 ? `${second} wins` : mean > 1.005 ? `${first} wins` : won > 0 && lost > 0 ? "depends on the case" : "no difference"; // prettier-ignore
    const other = of.filter((c) => !c.same).length;
    return `${flag}: ${verdict} (${second} against ${first}: ${change}${other > 0 ? `; other bits in ${other}` : ""})`;
  });
}

const named = (items: readonly ItemRecord[]): string =>
  `${items.slice(0, 3).map((i) => `${i.name} (${i.status}: ${i.text.split("\n")[0]!.slice(0, 200)})`).join("; ")}${items.length > 3 ? `; and ${items.length - 3} more` : ""}`; // prettier-ignore

function wrongLine(s: StageRecord): string {
  const wrong = s.items.filter(isWrong);
  const what = wrong.length > 0 ? `${wrong.length} of ${s.items.length} items: ${named(wrong)}` : s.fault;
  return `Mend what failed in "${s.name}": ${what}`;
}

/** One line per thing to do, the most urgent first. */
export function advice(survey: Survey): string[] {
  const lines: string[] = [];
  const { stages } = survey;
  for (const s of stages) if (s.status === "failed") lines.push(wrongLine(s));
  for (const s of stages)
    if (s.status === "cut") {
      const cut = s.items.filter((i) => i.status === "cut");
      lines.push(`"${s.name}" was cut before its end: ${cut.length} of ${s.items.length} items, from ${cut[0]?.name ?? "the first"}`);
    }
  for (const s of stages)
    if (s.status === "not run" || (survey.ended && s.status === "waiting"))
      lines.push(`"${s.name}" did not run: ${s.items.find((i) => i.status === "absent")?.text ?? s.notes.at(-1) ?? "no time was left"}`);
  const absent = stages.flatMap((s) => s.items.filter((i) => i.status === "absent" && s.status !== "not run"));
  if (absent.length > 0 && !survey.dry) lines.push(`Absent: ${named(absent)}`);
  const late = stages
    .filter((s) => s.bound !== null && s.state === "over" && s.status !== "not run")
    .map((s) => ({ s, took: s.items.filter((i) => !i.optional).reduce((sum, i) => sum + i.seconds, 0) }))
    .filter(({ s, took }) => took > s.expected)
    .sort((a, b) => b.took / b.s.expected - a.took / a.s.expected)[0];
  if (late && !survey.dry) {
    const slow = late.s.items.toSorted((a, b) => b.seconds - a.seconds)[0]!;
    lines.push(
      `Slowest against its expectation: "${late.s.name}", ${late.took.toFixed(0)} s where ${late.s.expected.toFixed(0)} s were expected; most of it ${slow.name} (${slow.seconds.toFixed(1)} s)`,
    );
  }
  const rows = rowsOf(survey);
  const missed = judge(rows).filter((j) => j.verdict === "missed");
  if (missed.length > 0) lines.push(`Floors missed: ${missed.map((j) => `${j.floor.name} (${j.value!.toPrecision(3)}, floor ${j.floor.floor} ${j.floor.unit})`).join("; ")}`); // prettier-ignore
  const gaps = gapsOf(rows).slice(0, 3);
  if (gaps.length > 0)
    lines.push(`Largest gaps: ${gaps.map((g) => `${g.id} at ${g.factor.toFixed(2)}× the time of ${g.against}`).join("; ")}`);
  const none = floors.length - judge(rows).filter((j) => j.verdict !== "not measured").length;
  if (rows.length > 0 && none > 0) lines.push(`Not measured: ${none} of ${floors.length} floors`);
  lines.push(...flagLines(survey));
  if (survey.ended && stages.every((s) => s.status === "ok"))
    lines.push(
      survey.dry ? "Everything ran at toy sizes; nothing was measured" : "All stages are in order: ./run.sh test bench, at length",
    );
  return lines;
}
