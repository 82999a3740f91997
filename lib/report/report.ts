// A report of a run, of profiles or of a comparison: what was named is found out, read and made one HTML page.

import { existsSync } from "node:fs";
import { stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { listArgument, optionsArgument, pathArgument } from "../arguments.ts";
import { compareSchema, readComparison, RESULT_FILE, TIMES_FILE, timesSchema } from "../compare/result.ts";
import type { Comparison } from "../compare/result.ts";
import { ConfigError, LayoutError } from "../errors.ts";
import { ExpertSet } from "../experts/expert_set.ts";
import { Profile, ProfileJson } from "../experts/profile.ts";
import { SCORES } from "../experts/scores.ts";
import type { ScoreKind } from "../experts/scores.ts";
import { checkSchema, readJsonFile } from "../files/json.ts";
import { isPlain } from "../options.ts";
import { ioError } from "../task.ts";
import { EVENTS } from "../train/events.ts";
import { REQUEST } from "../train/request.ts";
import { comparisonReport } from "./comparison.ts";
import type { Report } from "./content.ts";
import { pageOf } from "./page.ts";
import { profileReport } from "./profiles.ts";
import { readRun, runReport } from "./run.ts";

export interface ReportOptions {
  /** In place of one that says what is reported. */
  readonly title?: string | undefined;
  /** Of profiles: what the affinity of experts is measured by; default "token". */
  readonly score?: ScoreKind | undefined;
  /** Of profiles: experts are marked as selected whose cumulative score reaches p, in (0, 1]; default 0.2. */
  readonly p?: number | undefined;
  /** Of one profile: a file with the selection to mark instead. */
  readonly experts?: string | undefined;
}

/**
 * One HTML page, which needs nothing but itself: of the directory of a run or of a comparison, or of one or more profiles.
 * @throws ConfigError it is none of these, or an option does not fit it · LayoutError a file is damaged · IoError
 * @example await writeFile("law.html", await makeReport("out/law"));
 */
export async function makeReport(inputs: string | Iterable<string>, asked?: ReportOptions): Promise<string> {
  return pageOf(await readReport(inputs, asked));
}

/** What the page would say. @throws as makeReport */
export async function readReport(inputs: string | Iterable<string>, asked?: ReportOptions): Promise<Report> {
  const options = optionsArgument(asked, "report: options");
  const known = ["title", "score", "p", "experts"];
  const odd = Object.keys(options).find((key) => !known.includes(key));
  if (odd !== undefined) throw new ConfigError(`report: expected the options ${known.join(", ")}, found ${odd}`, { where: { key: odd } });
  if (options.title !== undefined && typeof options.title !== "string")
    throw new ConfigError("report: expected title to be a text", { where: { key: "title" } });
  const paths = (typeof inputs === "string" ? [inputs] : listArgument(inputs, "report: inputs")).map((path) =>
    pathArgument(path, "report: inputs"),
  );
  if (paths.length === 0)
    throw new ConfigError("report: expected the directory of a run or of a comparison, or profiles, found nothing", {
      where: { key: "inputs" },
    });
  const report = await readAny(paths, options);
  return options.title === undefined ? report : { ...report, title: options.title };
}

/** The files that a report of `inputs` may be made from, there or not. */
export function filesRead(inputs: readonly string[]): string[] {
  return inputs.flatMap((path) => [
    path,
    ...[EVENTS, REQUEST, RESULT_FILE, TIMES_FILE].map((name) => join(path, name)),
    ...(basename(path) === RESULT_FILE ? [join(dirname(path), TIMES_FILE)] : []),
  ]);
}

async function readAny(paths: readonly string[], options: ReportOptions): Promise<Report> {
  const all: Found[] = [];
  for (const path of paths) all.push(await find(path));
  const [{ kind, path }] = all as [Found, ...Found[]];
  const other = all.find((f) => f.kind !== kind);
  if (other !== undefined)
    throw new ConfigError(
      `report: expected one run, one comparison, or profiles alone, found ${path} (${kind}) and ${other.path} (${other.kind})`,
    );
  if (kind === "profile") {
    const profiles = all.map((f) => ({
      file: f.path,
      profile: new Profile(checkSchema(ProfileJson, f.value, f.path, ConfigError), f.path),
    }));
    const experts = options.experts === undefined ? undefined : await ExpertSet.load(pathArgument(options.experts, "report: experts"));
    const { score, p } = options;
    if (score !== undefined && !SCORES.includes(score))
      throw new ConfigError(`report: expected score to be ${SCORES.join(", ")}, found ${String(score)}`, { where: { key: "score" } });
    if (p !== undefined && experts) throw new ConfigError("report: expected p or experts, found both", { where: { key: "p" } });
    return profileReport(profiles, { score, p, experts });
  }
  const odd = (["score", "p", "experts"] as const).find((key) => options[key] !== undefined);
  if (odd !== undefined)
    throw new ConfigError(`report: ${odd} is about profiles, and ${path} is a ${kind}; leave it out`, { where: { key: odd } });
  if (paths.length > 1) throw new ConfigError(`report: expected one ${kind}, found ${paths.length}; report them one by one`);
  if (kind === "comparison") return comparisonReport(await comparisonOf(all[0]!));
  return runReport(await readRun(path));
}

/** What a path is. */
interface Found {
  readonly path: string;
  readonly kind: "run" | "profile" | "comparison";
  /** What a file holds; of a directory undefined. */
  readonly value?: unknown;
}

async function comparisonOf({ path, value }: Found): Promise<Comparison> {
  if (value === undefined) return readComparison(path);
  const times = join(dirname(path), TIMES_FILE);
  return {
    result: checkSchema(compareSchema, value, path),
    times: checkSchema(timesSchema, await readJsonFile(times, LayoutError), times),
  };
}

/** @throws ConfigError nothing that can be reported · IoError */
async function find(path: string): Promise<Found> {
  const info = await stat(path).catch((error: unknown) => {
    throw ioError(error, `cannot read ${path}`, { file: path });
  });
  if (info.isDirectory()) return { path, kind: existsSync(join(path, RESULT_FILE)) ? "comparison" : "run" };
  const value = await readJsonFile(path, ConfigError);
  const format = isPlain(value) ? value["format"] : undefined;
  if (format === "esft-profile") return { path, kind: "profile", value };
  if (format === "esft-compare" && basename(path) === RESULT_FILE) return { path, kind: "comparison", value };
  const found = typeof format === "string" ? `format ${JSON.stringify(format)}` : "no format";
  throw new ConfigError(
    `${path}: expected a profile ("format": "esft-profile"), or the directory of a run or of a comparison, found ${found}`,
    {
      where: { file: path },
    },
  );
}
