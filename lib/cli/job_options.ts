// The options of a training job as a user writes them: the short names of flags and keys, and the order of --help.

import { leavesOf } from "../options/leaves.ts";
import { jobSchema } from "../train/request.ts";
import { namesOf } from "./schema_flags.ts";
import type { FlagNames } from "./schema_flags.ts";

export const JOB_NAMES: FlagNames = {
  "data.file": "data",
  "method.type": "method",
  outDir: "out",
  "method.select.maxTrainableParams": "max-params",
  "method.compat": "perft-compat",
  "earlyStop.patience": "early-stop",
  "guard.files": "guard",
  "guard.every": "guard-every",
  "guard.stop": "guard-stop",
};

/** What the help shows first. */
const FIRST = [
  "model",
  "data.file",
  "evalData",
  "method.type",
  "method.experts",
  "method.profile",
  "method.select.score",
  "method.select.p",
  "outDir",
  "steps",
  "epochs",
  "optimizer.lr",
  "data.maxLength",
  "rowsPerStep",
];
const place = (path: string): number => (FIRST.includes(path) ? FIRST.indexOf(path) : FIRST.length);

/** Flags that may be given more than once. */
export const REPEATED: ReadonlySet<string> = new Set(["data.file"]);

/** A list of files is --data more than once. */
const leaves = leavesOf(jobSchema).filter((leaf) => leaf.path.join(".") !== "data.files");
export const jobLeaves = leaves.toSorted((a, b) => place(a.path.join(".")) - place(b.path.join(".")));

/** Name of a flag or key → the option's path. */
export const jobNames: ReadonlyMap<string, readonly string[]> = new Map(
  [...namesOf(jobLeaves, JOB_NAMES)].map(([name, leaf]) => [name, leaf.path] as const),
);
