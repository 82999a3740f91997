// A user's metric: a JavaScript module that exports score({answer, references, row}) → number, by that name or as default.

import { basename, extname, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { ConfigError, DataError } from "../errors.ts";
import { sha256 } from "../files/hash.ts";
import { RegularFile } from "../files/regular.ts";
import { shown } from "../options.ts";
import { meanScore } from "./metric.ts";
import type { Answered, Metric } from "./metric.ts";

type Score = (row: Pick<Answered, "answer" | "references" | "row">) => unknown;
const EXTENSIONS = [".js", ".mjs", ".cjs"];

/** Is this word the path of a module, and no metric's name? */
export const isModulePath = (word: string): boolean => /[\\/]/.test(word) || [...EXTENSIONS, ".ts", ".mts", ".cts"].includes(extname(word));

/** Runs the module. @throws ConfigError it cannot be loaded, or exports no such function · IoError */
export async function moduleMetric(path: string): Promise<Metric> {
  const fail = (says: string, cause?: unknown): never => {
    throw new ConfigError(`${path}: ${says}`, { where: { file: path }, cause });
  };
  if (!EXTENSIONS.includes(extname(path)))
    fail(`expected a metric in JavaScript (${EXTENSIONS.join(", ")}), found another kind of file; compile TypeScript first`);
  const content = await bytesOf(path);
  const loaded = await (import(pathToFileURL(resolve(path)).href) as Promise<Record<string, unknown>>).catch((cause: unknown) =>
    fail(`the module cannot be loaded: ${reason(cause)}`, cause),
  );
  const found = loaded["score"] ?? scoreOf(loaded["default"]);
  if (typeof found !== "function")
    return fail(`expected an export score({answer, references, row}) → number, or such a default export; found ${exports(loaded)}`);
  const score = found as Score;
  return {
    name: path,
    identity: `${basename(path)} ${sha256(content)}`,
    best: 1,
    score: async ({ place, answer, references, row }) => {
      const wrong = (says: string, cause?: unknown): DataError =>
        new DataError(`${place}: the metric ${path} ${says}`, { where: { place, file: path }, cause });
      let value: unknown;
      try {
        value = await score({ answer, references, row });
      } catch (cause) {
        throw wrong(`failed: ${reason(cause)}`, cause);
      }
      if (typeof value === "number" && Number.isFinite(value)) return value;
      throw wrong(`returned ${shown(value)}, expected a finite number`);
    },
    aggregate: meanScore,
  };
}

async function bytesOf(path: string): Promise<Buffer> {
  await using file = await RegularFile.open(path);
  return file.content();
}

/** CommonJS: module.exports = { score } is the default export. */
function scoreOf(value: unknown): unknown {
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>)["score"] : value;
}

const reason = (error: unknown): string => (error instanceof Error ? error.message : String(error));

function exports(module: Record<string, unknown>): string {
  const names = Object.keys(module);
  return names.length === 0 ? "no export" : `the exports ${names.join(", ")}`;
}
