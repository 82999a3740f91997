// How many threads a device gets: as many as are asked for, at most one per processor that this process may use. More than that never
// helps and can be a hundred times slower; results do not depend on it.

import { readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { ConfigError } from "../errors.ts";

/** What the addon takes. */
const MOST = 1024;

let warned = false;

/**
 * @param asked the option `threads`; without it ESFT_THREADS, without that all processors
 * @throws ConfigError not a whole number from 1, naming the option or the variable
 */
export function threadCount(asked: number | undefined): number {
  const most = Math.min(usableProcessors(), MOST);
  const text = process.env["ESFT_THREADS"] ?? "";
  if (asked === undefined && text === "") return most;
  const key = asked === undefined ? "ESFT_THREADS" : "threads";
  const count = asked ?? (/^\s*\d+\s*$/.test(text) ? Number(text) : NaN);
  if (!Number.isSafeInteger(count) || count < 1)
    throw new ConfigError(`${key}: expected a whole number of threads from 1, found ${shown(asked ?? text)}`, { where: { key } });
  if (count <= most || (process.env["ESFT_OVERSUBSCRIBE"] ?? "") !== "") return count;
  if (!warned)
    process.emitWarning(
      `${key} asks for ${count} threads, but this process may use ${most} processor${most === 1 ? "" : "s"}: ${most} it is, as more would only be slower`,
      { type: "EsftWarning", code: "ESFT_THREADS" },
    );
  warned = true;
  return most;
}

const shown = (value: unknown): string =>
  typeof value === "string" ? JSON.stringify(value) : typeof value === "number" ? String(value) : typeof value;

/** Processors that this process may use: its affinity mask, and where a control group (a container) has a quota, no more than that. */
export function usableProcessors(root = "/"): number {
  return Math.max(1, Math.min(availableParallelism(), Math.floor(quota(root))));
}

/** Processors' worth of time that the control groups of this process leave it; Infinity without a limit. `root`: for tests. */
function quota(root: string): number {
  const read = (...path: string[]): string => {
    try {
      return readFileSync(join(root, ...path), "utf8").trim();
    } catch {
      return ""; // no control groups here, or none of this kind
    }
  };
  let least = Infinity;
  const limit = (time: string | undefined, period: string | undefined): void => {
    const share = Number(time) / Number(period); // "max" and -1 are no limit
    if (share > 0) least = Math.min(least, share);
  };
  for (const line of read("proc/self/cgroup").split("\n")) {
    const [, kinds = "", path = ""] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
    const unified = kinds === "";
    if (!unified && !kinds.split(",").includes("cpu")) continue;
    // The group's limit and those of all above it; inside a container the path may not exist, its root does.
    for (let at = path; ; at = at.slice(0, at.lastIndexOf("/"))) {
      if (unified) limit(...(read("sys/fs/cgroup", at, "cpu.max").split(" ") as [string, string?]));
      else
        for (const mount of new Set([kinds, "cpu"]))
          limit(read("sys/fs/cgroup", mount, at, "cpu.cfs_quota_us"), read("sys/fs/cgroup", mount, at, "cpu.cfs_period_us"));
      if (!at.includes("/")) break;
    }
  }
  return least;
}
