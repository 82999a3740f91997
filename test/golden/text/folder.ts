// A folder of text fixtures and what every check of it needs: where tokenizers and templates lie, and a tally of comparisons.

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { DataError } from "../../../lib/errors.ts";
import { parseJson, type JsonValue } from "../../../lib/text/python_json.ts";
import { compileChatTemplate, type ChatTemplate, type Message } from "../../../lib/text/template.ts";
import { loadTokenizer, type Tokenizer } from "../../../lib/text/tokenizer.ts";
import type { Report } from "../compare.ts";

export interface TemplateEntry {
  readonly name: string;
  readonly file: string;
  readonly bos: string | null;
  readonly eos: string | null;
  readonly stops: readonly string[];
}
export interface Failure {
  readonly error: "raise" | "other";
  readonly says: string;
}
export interface SpanCase {
  readonly message: number;
  readonly ok: boolean;
  readonly why?: string;
  readonly start?: number;
  readonly end?: number;
  readonly text?: string;
  readonly stop?: string | null;
  readonly follow?: string | null;
}
export interface TemplateCase {
  readonly conversation: string;
  readonly text: string | Failure;
  readonly prompt: string | Failure;
  readonly spans?: readonly SpanCase[];
  readonly coerced?: { readonly text: string; readonly prompt: string };
}

/** A template of templates.json. */
export interface RenderedTemplate extends TemplateEntry {
  readonly cases: readonly TemplateCase[];
}
export interface ConversationEntry {
  readonly messages: readonly Message[];
  readonly tools?: readonly JsonValue[];
}
export type Conversations = Readonly<Record<string, ConversationEntry>>;

/** More folders to look into for tokenizers and templates that a fixture names and its own folder lacks. */
export interface Elsewhere {
  readonly tokenizers?: readonly string[];
  readonly templates?: readonly string[];
}

const FIXED_CLOCK = new Date(2025, 5, 15, 12, 0, 0);

/** JSON as the project reads it: lone surrogates and large integers survive. */
export function json<T>(...path: string[]): T {
  return parseJson(readFileSync(join(...path), "utf8").replace(/^\ufeff/, "")) as unknown as T;
}

/** Optional keys are absent. */
const complete = <T extends Partial<TemplateEntry>>(entry: T): T & TemplateEntry =>
  ({ ...entry, bos: entry.bos ?? null, eos: entry.eos ?? null, stops: entry.stops ?? [] }) as T & TemplateEntry;

export class TextFolder {
  readonly root: string;
  /** templates.json: the templates with their cases, the conversations that these name, the clock of `strftime_now`. */
  readonly rendered: readonly RenderedTemplate[];
  readonly conversations: Conversations;
  readonly clock: Date;
  private readonly tokenizers: readonly string[];
  private readonly templates: readonly string[];
  private readonly entries = new Map<string, TemplateEntry>();

  constructor(root: string, elsewhere: Elsewhere = {}) {
    this.root = root;
    this.tokenizers = [join(root, "tokenizers"), ...(elsewhere.tokenizers ?? [])];
    this.templates = [join(root, "templates"), ...(elsewhere.templates ?? [])];
    for (const dir of this.templates) {
      if (!existsSync(join(dir, "sources.json"))) continue;
      const sources = json<{ templates?: TemplateEntry[] } | TemplateEntry[]>(dir, "sources.json");
      for (const e of Array.isArray(sources) ? sources : (sources.templates ?? [])) this.entries.set(e.name, complete(e));
    }
    const golden = existsSync(join(root, "templates.json"))
      ? json<{ clock?: string; conversations?: Conversations; templates?: RenderedTemplate[] }>(root, "templates.json")
      : {};
    this.rendered = (golden.templates ?? []).map(complete);
    this.conversations = golden.conversations ?? {};
    this.clock = golden.clock === undefined ? FIXED_CLOCK : new Date(golden.clock);
    for (const e of this.rendered) this.entries.set(e.name, e);
  }

  /** A template's tokens and file, from templates.json or the list of sources beside the templates. */
  entry(name: string): TemplateEntry {
    const entry = this.entries.get(name);
    if (!entry) throw new Error(`no template "${name}" in templates.json or sources.json`);
    return entry;
  }
  template(file: string): ChatTemplate {
    const dir = this.templates.find((d) => existsSync(join(d, file)));
    if (dir === undefined) throw new Error(`no template ${file} in ${this.templates.join(", ")}`);
    return compileChatTemplate(readFileSync(join(dir, file), "utf8"));
  }
  async tokenizer(name: string): Promise<Tokenizer> {
    const dir = this.tokenizers.map((d) => join(d, name)).find((d) => existsSync(join(d, "tokenizer.json")));
    if (dir === undefined) throw new Error(`no tokenizer ${name} in ${this.tokenizers.join(", ")}`);
    return loadTokenizer(dir);
  }
}

/** Tokenizers of a text folder that have cases. */
export function tokenizerKinds(root: string): string[] {
  const dir = join(root, "tokenizers");
  if (!existsSync(dir)) return [];
  return readdirSync(dir)
    .filter((name) => existsSync(join(dir, name, "cases.json")))
    .sort();
}

/** Collects comparisons of values; representations (Map or object, exact numbers) do not matter. */
export class Tally {
  compared = 0;
  readonly failures: string[] = [];

  same(where: string, want: unknown, got: unknown): void {
    this.compared++;
    if (isDeepStrictEqual(plain(want), plain(got))) return;
    this.failures.push(`${where}\n      want ${short(want)}\n      got  ${short(got)}`);
  }

  report(): Report {
    const failures = this.compared === 0 ? ["nothing was compared"] : this.failures;
    return { outcome: failures.length === 0 ? "pass" : "FAIL", checks: [], compared: this.compared, failures };
  }
}

// Content, not representation: exact numbers as numbers, maps as objects.
function plain(value: unknown): unknown {
  if (value instanceof Map) return plain(Object.fromEntries(value));
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value !== "object" || value === null) return value;
  if ("toJSON" in value && typeof value.toJSON === "function") return (value.toJSON as () => unknown)();
  return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, plain(v)]));
}

function short(value: unknown): string {
  const text = JSON.stringify(value) ?? "undefined";
  return text.length > 220 ? `${text.slice(0, 217)}…` : text;
}

/** What a call returns, or the DataError that it throws. */
export function attempt<T>(run: () => T): T | DataError {
  try {
    return run();
  } catch (error) {
    if (error instanceof DataError) return error;
    throw error;
  }
}

/** What a promise gives, or the DataError that it rejects with. */
export async function attemptAsync<T>(run: () => Promise<T>): Promise<T | DataError> {
  try {
    return await run();
  } catch (error) {
    if (error instanceof DataError) return error;
    throw error;
  }
}

export const refusal = (error: DataError): { code: unknown; key: unknown } => ({ code: error.where["rule"], key: error.where["key"] });
