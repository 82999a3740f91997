// docs/events.md says of every event what the schema of events.jsonl says: types, fields, which may be null or absent; and the schema has
// all that a run writes. No GPU. Alone: npx vitest run test/docs/events.test.ts

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import type { z } from "zod";
import type { TrainEvent } from "../../lib/index.ts";
import { eventSchemas } from "../../lib/train/run_log.ts";
import { projectRoot } from "../cli/support.ts";

type Known<T> = { [K in keyof T as string extends K ? never : K]: T[K] };
/** Names of all fields, those of lists and objects too, in dots. */
type Fields<T> = T extends readonly (infer U)[]
  ? Fields<U>
  : T extends object
    ? { [K in keyof Known<T> & string]: K | `${K}.${Fields<NonNullable<T[K & keyof T]>>}` }[keyof Known<T> & string]
    : never;
type Emitted = { [T in TrainEvent["type"]]: Fields<Extract<TrainEvent, { type: T }>> };
type Logged = { [T in keyof typeof eventSchemas]: Exclude<Fields<z.output<(typeof eventSchemas)[T]>>, "time"> };
type Same<A, B> = [A] extends [B] ? ([B] extends [A] ? true : false) : false;
// Does not compile where a run tells what the schema does not know, or the schema knows what no run tells.
const emittedIsLogged: { [T in TrainEvent["type"]]: Same<Emitted[T], Logged[T]> } & Record<keyof typeof eventSchemas, true> = {
  start: true,
  step: true,
  eval: true,
  guard: true,
  drift: true,
  sample: true,
  stage: true,
  reallocate: true,
  checkpoint: true,
  warning: true,
  extend: true,
  done: true,
};

/** On every line, told of once. */
const COMMON = ["type", "step", "time"];

interface Def {
  readonly type: string;
  readonly innerType?: z.ZodType;
  readonly element?: z.ZodType;
  readonly shape?: Readonly<Record<string, z.ZodType>>;
  readonly format?: string;
}
const defOf = (schema: z.ZodType): Def => schema.def as unknown as Def;
const WORDS: Readonly<Record<string, string>> = { record: "object" };

/** "files[].weight" → "number or null", as the pages have it. */
function rowsOf(schema: z.ZodType, name: string): [name: string, type: string][] {
  let [at, optional, nullable] = [schema, false, false];
  for (let def = defOf(at); def.innerType; def = defOf(at)) {
    optional ||= def.type === "optional";
    nullable ||= def.type === "nullable";
    at = def.innerType;
  }
  const { type, element, shape } = defOf(at);
  const whole = (at as { format?: string | null }).format === "safeint";
  const word = whole ? "integer" : (WORDS[type] ?? type);
  const own: [string, string] = [`${name}${optional ? "?" : ""}`, nullable ? `${word} or null` : word];
  const inner = element ? defOf(element).shape : shape;
  const prefix = element ? `${name}[].` : `${name}.`;
  return [own, ...Object.entries(inner ?? {}).flatMap(([key, of]) => rowsOf(of, prefix + key))];
}

const page = readFileSync(join(projectRoot, "docs/events.md"), "utf8");
const sections = new Map(page.split(/^## /m).slice(1).map((text) => [text.split("\n", 1)[0]!, text])); // prettier-ignore

describe("docs/events.md", () => {
  it("has a section for every type of event and no other", () => {
    expect([...sections.keys()].sort()).toEqual(Object.keys(emittedIsLogged).sort());
    expect(Object.keys(eventSchemas).sort()).toEqual(Object.keys(emittedIsLogged).sort());
  });

  it.each(Object.entries(eventSchemas))("has every field of %s, with its type", (type, schema) => {
    const found = [...(sections.get(type) ?? "").matchAll(/^\| `([^`]+)` \| ([^|]+) \| (.*) \|$/gm)];
    const wanted = Object.entries(schema.shape).flatMap(([key, of]) => (COMMON.includes(key) ? [] : rowsOf(of, key)));
    expect(found.map(([, name, of]) => [name, of])).toEqual(wanted);
    for (const [, name, , meaning] of found) expect(meaning, name).toMatch(/\w/);
  });
});
