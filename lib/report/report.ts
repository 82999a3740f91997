// A report of a run, of profiles or of a comparison: what was named is found out, read and made one HTML page.

import { existsSync } from "node:fs";
import { stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { listArgument, optionsArgument, pathArgument } from "../arguments.ts";
import { readComparison, RESULT_FILE } from "../compare/result.ts";
import { ConfigError } from "../errors.ts";
import { ExpertSet } from "../experts/expert_set.ts";
import { Profile } from "../experts/profile.ts";
import { SCORES } from "../experts/scores.ts";
import type { ScoreKind } from "../experts/scores.ts";
import { readJsonFile } from "../files/json.ts";
import { isPlain } from "../options.ts";
import { ioError } from "../task.ts";
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

async function readAny(paths: readonly string[], options: ReportOptions): Promise<Report> {
  const kinds = await Promise.all(paths.map(kindOf));
  const other = kinds.findIndex((k) => k !== kinds[0]);
  if (other >= 0)
    throw new ConfigError(
      `report: expected one run, one comparison, or profiles alone, found ${paths[0]} (${kinds[0]}) and ${paths[other]} (${kinds[other]})`,
    );
  const [kind, path] = [kinds[0]!, paths[0]!];
  if (kind === "profile") {
    const all = [];
    for (const file of paths) all.push({ file, profile: await Profile.load(file) });
    const experts = options.experts === undefined ? undefined : await ExpertSet.load(pathArgument(options.experts, "report: experts"));
    const { score, p } = options;
    if (score !== undefined && !SCORES.includes(score))
      throw new ConfigError(`report: expected score to be ${SCORES.join(", ")}, found ${String(score)}`, { where: { key: "score" } });
    if (p !== undefined && experts) throw new ConfigError("report: expected p or experts, found both", { where: { key: "p" } });
    return profileReport(all, { score, p, experts });
  }
  const odd = (["score", "p", "experts"] as const).find((key) => options[key] !== undefined);
  if (odd !== undefined)
    throw new ConfigError(`report: ${odd} is about profiles, and ${path} is a ${kind}; leave it out`, { where: { key: odd } });
  if (paths.length > 1) throw new ConfigError(`report: expected one ${kind}, found ${paths.length}; report them one by one`);
  if (kind === "comparison") return comparisonReport(await readComparison(basename(path) === RESULT_FILE ? dirname(path) : path));
  return runReport(await readRun(path));
}

/** What a path is. @throws ConfigError nothing that can be reported · IoError */
async function kindOf(path: string): Promise<"run" | "profile" | "comparison"> {
  const info = await stat(path).catch((error: unknown) => {
    throw ioError(error, `cannot read ${path}`, { file: path });
  });
  if (info.isDirectory()) return existsSync(join(path, RESULT_FILE)) ? "comparison" : "run";
  const value = await readJsonFile(path, ConfigError);
  const format = isPlain(value) ? value["format"] : undefined;
  if (format === "esft-profile") return "profile";
  if (format === "esft-compare" && basename(path) === RESULT_FILE) return "comparison";
  const found = typeof format === "string" ? `format ${JSON.stringify(format)}` : "no format";
  throw new ConfigError(
    `${path}: expected a profile ("format": "esft-profile"), or the directory of a run or of a comparison, found ${found}`,
    {
      where: { file: path },
    },
  );
}
