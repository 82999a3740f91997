// survey.md and survey.json: written whole at every change, so that a reader finds what was there when the survey was cut.

import path from "node:path";
import { floorTable } from "../../bench/gpu/report.ts";
import { writeFileAtomic } from "../../lib/files/atomic.ts";
import { advice, rowsOf } from "./advice.ts";
import { isWrong } from "./record.ts";
import type { ItemRecord, StageRecord, Survey } from "./record.ts";

/** Stages of more items than this show what is not ok, and a count. */
const MANY = 16;
const OFTEN_MS = 300;

const cell = (text: string): string => text.replaceAll("|", "\\|").replace(/\s+/g, " ");
const seconds = (s: number): string => `${s.toFixed(1)} s`;

function counts(s: StageRecord): string {
  const by = new Map<string, number>();
  for (const { status } of s.items) by.set(status, (by.get(status) ?? 0) + 1);
  return [...by].map(([status, n]) => `${n} ${status}`).join(", ");
}

function itemLine({ name, status, seconds: took, text }: ItemRecord): string {
  const said = cell(text);
  return `- **${status}** ${name}${took > 0 ? ` (${seconds(took)})` : ""}${said ? `: ${said.slice(0, 600)}` : ""}`;
}

function stageSection(s: StageRecord): string[] {
  const shown = s.items.length > MANY ? s.items.filter((i) => i.status !== "ok" && i.status !== "no time") : s.items;
  return [
    `## ${s.name}: ${s.status}`,
    "",
    `${s.teaches}. ${counts(s)}`,
    "",
    ...(s.fault === null ? [] : [`- **fault** ${cell(s.fault)}`]),
    ...s.notes.map((note) => `- ${cell(note)}`),
    ...[...shown.filter(isWrong), ...shown.filter((i) => !isWrong(i))].map(itemLine),
    "",
  ];
}

export function markdown(survey: Survey): string {
  const { stages, ended } = survey;
  const now = stages.find((s) => s.status === "running");
  const state = ended
    ? `${ended.how} after ${seconds(ended.seconds)} of ${survey.seconds}`
    : now
      ? `not ended: "${now.name}" was running when this was written`
      : "not ended";
  const rows = rowsOf(survey);
  const table = stages.map((s) => {
    const bound = s.bound === null ? "what is left" : seconds(s.bound);
    return `| ${s.name} | ${s.status} | ${s.state === "waiting" ? "" : seconds(s.seconds)} | ${bound} | ${counts(s)} | ${cell(s.notes.join("; "))} |`;
  });
  const next = advice(survey);
  return [
    `# Survey${survey.dry ? ", dry run: toy sizes, nothing is a measurement" : ""}`,
    "",
    `${survey.version}; ${survey.began}; ${state}`,
    "",
    `Library ${survey.library}; PyTorch: ${survey.peer}`,
    "",
    `## What to do next${ended ? "" : " (so far)"}`,
    "",
    ...(next.length > 0 ? next.map((text, i) => `${i + 1}. ${cell(text)}`) : ["Nothing is known yet."]),
    "",
    "## Stages",
    "",
    "| stage | status | took | bound | items | notes |",
    "| --- | --- | --- | --- | --- | --- |",
    ...table,
    "",
    ...(rows.length > 0 ? ["## Floors", "", floorTable(rows), ""] : []),
    ...stages.filter((s) => s.state !== "waiting").flatMap(stageSection),
  ].join("\n");
}

/** Keeps both files of a folder as the survey goes on; writes are one after another, and not more often than a reader could see. */
export class Report {
  private readonly survey: Survey;
  private readonly dir: string;
  private writing: Promise<void> = Promise.resolve();
  private timer: NodeJS.Timeout | null = null;

  constructor(survey: Survey, dir: string) {
    this.survey = survey;
    this.dir = dir;
  }

  /** Soon. */
  changed(): void {
    this.timer ??= setTimeout(() => void this.write(), OFTEN_MS);
  }

  /** Now; resolves when both files are in place. */
  write(): Promise<void> {
    if (this.timer) clearTimeout(this.timer);
    this.timer = null;
    this.writing = this.writing
      .then(async () => {
        await writeFileAtomic(path.join(this.dir, "survey.json"), `${JSON.stringify(this.survey, null, 1)}\n`);
        await writeFileAtomic(path.join(this.dir, "survey.md"), `${markdown(this.survey)}\n`);
      })
      // A full disk loses this version of the report, not the survey.
      .catch((error: unknown) => console.error(`survey: ${String(error)}`));
    return this.writing;
  }
}
