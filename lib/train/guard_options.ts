// What is not to be forgotten, as TypeScript, YAML, flags and request.json have it: named rows, how often their loss is taken, and how
// far it may rise.

import { basename } from "node:path";
import { z } from "zod";
import { Dataset } from "../data/dataset.ts";
import { Examples } from "../data/examples.ts";
import { isPlain } from "../options.ts";
import { fault } from "./method_options.ts";

export const isInMemory = (x: unknown): x is Dataset | Examples => x instanceof Dataset || x instanceof Examples;
export const inMemory = z.custom<Dataset | Examples>(isInMemory, "expected a Dataset or Examples");
/** Rows as a file or in memory. */
export const source = z.union([z.string(), inMemory], "expected a file, a Dataset or Examples");

export const guardSchema = z.strictObject({
  files: z
    .array(z.strictObject({ name: z.string().min(1, "expected a name"), file: source }), "expected a list of {name, file}")
    .min(1, "expected at least one file")
    .check((ctx) => {
      const names = ctx.value.map((f) => f.name);
      const twice = names.findIndex((name, i) => names.indexOf(name) < i);
      if (twice >= 0) fault(ctx, [String(twice), "name"], "expected a name of its own", JSON.stringify(names[twice]));
    })
    .describe(
      "rows of what is not to be forgotten, name=file between commas; in a YAML file also [{name, file}]: their loss is taken before the " +
        "first update and on the way",
    ),
  every: z.int().min(1).default(100).describe("updates from one look at them to the next"),
  maxRise: z.number().min(0).default(0.1).describe("what their loss may rise by, in nats, before a warning"),
  stop: z.boolean().default(false).describe("end the run there instead of going on with a warning"),
});
export type GuardOptions = z.output<typeof guardSchema>;
export type GuardInput = z.input<typeof guardSchema>;

/** The short forms of `guard`, and of its files, as the objects that they stand for; all else as it is. */
export function longGuard(guard: unknown): unknown {
  if (typeof guard === "string" || Array.isArray(guard)) return longGuard({ files: guard });
  if (!isPlain(guard) || typeof guard["files"] !== "string") return guard;
  const files = guard["files"].split(",").map((item) => {
    const at = item.indexOf("=");
    if (at >= 0) return { name: item.slice(0, at).trim(), file: item.slice(at + 1).trim() };
    return { name: basename(item.trim()).replace(/\..*$/, ""), file: item.trim() };
  });
  return { ...guard, files };
}
