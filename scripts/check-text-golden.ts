// Checks a folder of text fixtures (tokenizers, templates, masks, ESFT packing, dataset rows) and prints one row per file.
//   npx tsx scripts/check-text-golden.ts DIR [--tokenizers DIR …] [--templates DIR …]
// DIR is laid out like golden/text; --tokenizers and --templates name more folders to look into for what DIR refers to.
// Exit 0 only when something ran and everything passed.

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { isDeepStrictEqual } from "node:util";
import { DataError } from "../lib/errors.ts";
import { encodeEsft, packEsft } from "../lib/data/esft_format.ts";
import { encodeConversation } from "../lib/data/masks.ts";
import { PythonRandom } from "../lib/data/mt19937.ts";
import { readRows } from "../lib/data/lines.ts";
import { assistantSpan } from "../lib/data/spans.ts";
import { compileChatTemplate, type ChatTemplate, type Message, type RenderOptions } from "../lib/text/template.ts";
import { loadTokenizer, type Tokenizer } from "../lib/text/tokenizer.ts";
import { parseJson, type JsonValue } from "../lib/text/python_json.ts";

export interface CheckedRow {
  readonly name: string;
  readonly compared: number;
  readonly failures: readonly string[];
}
interface Folders {
  readonly root: string;
  readonly tokenizers: readonly string[];
  readonly templates: readonly string[];
}
interface TemplateEntry {
  readonly name: string;
  readonly file: string;
  readonly bos: string | null;
  readonly eos: string | null;
  readonly stops: readonly string[];
}
interface ConversationEntry {
  readonly messages: readonly Message[];
  readonly tools?: readonly JsonValue[];
}

/** Collects comparisons; JSON.stringify forms so that absent, null and order of keys are handled by `plain`. */
class Tally {
  compared = 0;
  readonly failures: string[] = [];

  same(where: string, want: unknown, got: unknown): void {
    this.compared++;
    if (isDeepStrictEqual(plain(want), plain(got))) return;
    this.failures.push(`${where}\n      want ${short(want)}\n      got  ${short(got)}`);
  }

  row(name: string): CheckedRow {
    return { name, compared: this.compared, failures: this.failures };
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

const json = (...path: string[]): unknown => parseJson(readFileSync(join(...path), "utf8").replace(/^\ufeff/, ""));

function attempt<T>(run: () => T): T | DataError {
  try {
    return run();
  } catch (error) {
    if (error instanceof DataError) return error;
    throw error;
  }
}

const refusal = (error: DataError): { code: unknown; key: unknown } => ({ code: error.where["rule"], key: error.where["key"] });

async function findTokenizer(folders: Folders, name: string): Promise<Tokenizer> {
  const dir = folders.tokenizers.map((d) => join(d, name)).find((d) => existsSync(join(d, "tokenizer.json")));
  if (dir === undefined) throw new Error(`no tokenizer ${name} in ${folders.tokenizers.join(", ")}`);
  return loadTokenizer(dir);
}

async function checkTokenizer(folders: Folders, name: string): Promise<CheckedRow> {
  interface Case {
    readonly id?: string;
    readonly bytes?: string;
    readonly partial?: string;
    readonly text: string;
    readonly ids: number[];
    readonly special?: number[];
    readonly tokens?: string[];
    readonly decoded: string;
    readonly skip: string;
  }
  const tally = new Tally();
  const golden = json(folders.root, "tokenizers", name, "cases.json") as unknown as {
    cases: Case[];
    decode?: Case[];
    unencodable?: Case[];
  };
  const tokenizer = await findTokenizer(folders, name);
  for (const c of golden.cases) {
    const { ids, tokens } = tokenizer.encodeTokens(c.text);
    tally.same(`${c.id} ids`, c.ids, ids);
    tally.same(`${c.id} encode`, c.ids, tokenizer.encode(c.text));
    if (c.special !== undefined) tally.same(`${c.id} special`, c.special, tokenizer.encode(c.text, { addSpecialTokens: true }));
    if (c.tokens !== undefined) tally.same(`${c.id} tokens`, c.tokens, tokens);
  }
  for (const c of [...golden.cases, ...(golden.decode ?? [])]) {
    const id = c.id ?? (c.bytes === undefined ? `partial ${c.partial}` : `bytes ${c.bytes}`);
    tally.same(`${id} decoded`, c.decoded, tokenizer.decode(c.ids));
    tally.same(`${id} skip`, c.skip, tokenizer.decode(c.ids, { skipSpecialTokens: true }));
  }
  for (const c of golden.unencodable ?? []) {
    const got = attempt(() => tokenizer.encode(c.text));
    tally.same(`${c.id} refused`, "surrogate", got instanceof DataError ? got.where["rule"] : got);
  }
  return tally.row(`tokenizers/${name}`);
}

function readTemplate(folders: Folders, file: string): ChatTemplate {
  const dir = folders.templates.find((d) => existsSync(join(d, file)));
  if (dir === undefined) throw new Error(`no template ${file} in ${folders.templates.join(", ")}`);
  return compileChatTemplate(readFileSync(join(dir, file), "utf8"));
}

interface Failure {
  readonly error: "raise" | "other";
  readonly says: string;
}
interface SpanCase {
  readonly message: number;
  readonly ok: boolean;
  readonly why?: string;
  readonly start?: number;
  readonly end?: number;
  readonly text?: string;
  readonly stop?: string | null;
  readonly follow?: string | null;
}
interface TemplateCase {
  readonly conversation: string;
  readonly text: string | Failure;
  readonly prompt: string | Failure;
  readonly spans?: readonly SpanCase[];
  readonly coerced?: { readonly text: string; readonly prompt: string };
}

function checkTemplate(
  folders: Folders,
  entry: TemplateEntry & { cases: readonly TemplateCase[] },
  conversations: Readonly<Record<string, ConversationEntry>>,
  clock: Date,
): CheckedRow {
  const tally = new Tally();
  const template = readTemplate(folders, entry.file);
  for (const c of entry.cases) {
    const { messages, tools } = conversations[c.conversation] as ConversationEntry;
    const render: RenderOptions = { tools: tools ?? null, bosToken: entry.bos, eosToken: entry.eos, now: clock };
    for (const key of ["text", "prompt"] as const) {
      const got = attempt(() => template.render(template.adapt(messages, render), { ...render, addGenerationPrompt: key === "prompt" }));
      const where = `${c.conversation} ${key}`;
      const want = c[key];
      const coerced = c.coerced?.[key];
      if (typeof got === "string" && got === coerced) tally.same(where, coerced, got);
      else if (typeof want === "string") tally.same(where, want, got instanceof DataError ? got.message : got);
      else if (!(got instanceof DataError)) tally.same(where, want, got);
      else if (want.error === "raise") tally.same(where, ["raise", want.says], [got.where["kind"], got.where["says"]]);
      else tally.same(where, "other", got.where["kind"]);
      // without adaptation: exactly what transformers gives, text or error
      const raw = attempt(() => template.render(messages, { ...render, addGenerationPrompt: key === "prompt" }));
      tally.same(`${where} as given`, typeof want === "string" ? want : want.error, raw instanceof DataError ? raw.where["kind"] : raw);
    }
    if (c.spans !== undefined && typeof attempt(() => template.render(messages, render)) === "string")
      checkSpans(tally, c, template, messages, render, entry.stops);
  }
  return tally.row(`templates/${entry.name}`);
}

function checkSpans(
  tally: Tally,
  c: TemplateCase,
  template: ChatTemplate,
  messages: readonly Message[],
  render: RenderOptions,
  stops: readonly string[],
): void {
  const full = template.render(messages, render);
  for (const want of c.spans ?? []) {
    const span = assistantSpan({ template, messages, full, stops, render }, want.message);
    const got = span.ok
      ? {
          message: span.message,
          ok: true,
          start: span.prompt.length,
          end: span.extended.length,
          text: span.extended.slice(span.prompt.length),
          stop: span.stop,
          ...(span.stop === null ? { follow: span.follow } : {}),
        }
      : { message: span.message, ok: false, why: span.why };
    const { error: _error, ...comparable } = want as SpanCase & { error?: string };
    tally.same(`${c.conversation} span ${want.message}`, comparable, got);
  }
}

async function checkMasks(folders: Folders, entries: ReadonlyMap<string, TemplateEntry>, clock: Date): Promise<CheckedRow> {
  interface Case {
    readonly tokenizer: string;
    readonly template: string;
    readonly conversation: string;
    readonly text?: string;
    readonly input_ids?: number[];
    readonly labels?: number[];
    readonly warnings?: unknown[];
    readonly refuse?: { code: string; key: string };
  }
  const tally = new Tally();
  const golden = json(folders.root, "masks.json") as unknown as { conversations: Record<string, ConversationEntry>; cases: Case[] };
  const tokenizers = new Map<string, Tokenizer>();
  for (const c of golden.cases) {
    const where = `${c.tokenizer} ${c.template} ${c.conversation}`;
    const entry = entries.get(c.template);
    if (entry === undefined) throw new Error(`masks.json names template ${c.template}, which neither templates.json nor sources.json has`);
    const tokenizer = tokenizers.get(c.tokenizer) ?? (await findTokenizer(folders, c.tokenizer));
    tokenizers.set(c.tokenizer, tokenizer);
    const { messages, tools } = golden.conversations[c.conversation] as ConversationEntry;
    const got = attempt(() =>
      encodeConversation({
        tokenizer,
        template: readTemplate(folders, entry.file),
        messages,
        tools: tools ?? null,
        stops: entry.stops,
        render: { bosToken: entry.bos, eosToken: entry.eos, now: clock },
      }),
    );
    const { code, key } = c.refuse ?? {};
    const want = c.refuse === undefined ? { text: c.text, inputIds: c.input_ids, labels: c.labels, warnings: c.warnings } : { code, key };
    tally.same(
      where,
      want,
      got instanceof DataError ? refusal(got) : { text: got.text, inputIds: got.inputIds, labels: got.labels, warnings: got.warnings },
    );
  }
  return tally.row("masks.json");
}

async function checkPacking(folders: Folders): Promise<CheckedRow> {
  interface Packed {
    readonly length: number;
    readonly ratio: number;
    readonly seed: number;
    readonly draws: number[];
    readonly input_ids: number[][];
    readonly labels: number[][];
    readonly lengths?: number[];
    readonly about?: string;
  }
  interface Example {
    readonly name: string;
    readonly messages: Message[];
    readonly input_ids?: number[];
    readonly labels?: number[];
    readonly error?: string;
  }
  const tally = new Tally();
  const golden = json(folders.root, "esft_packing.json") as unknown as {
    tokenizer: string;
    ids: { pad: number };
    order: string[];
    examples: Example[];
    packed: Packed[];
    synthetic: Packed[];
  };
  const tokenizer = await findTokenizer(folders, golden.tokenizer);
  const examples = new Map<string, { inputIds: readonly number[]; labels: readonly number[] }>();
  for (const e of golden.examples) {
    const got = attempt(() => encodeEsft(e.messages, tokenizer));
    const texts = e.messages.every((m) => typeof m.content === "string");
    if (e.error !== undefined || (got instanceof DataError && !texts)) tally.same(`${e.name} refused`, true, got instanceof DataError);
    else tally.same(e.name, { inputIds: e.input_ids, labels: e.labels }, got instanceof DataError ? got.message : got);
    if (e.input_ids !== undefined && e.labels !== undefined) examples.set(e.name, { inputIds: e.input_ids, labels: e.labels });
  }
  const check = (
    where: string,
    p: Packed,
    buffer: readonly { inputIds: readonly number[]; labels: readonly number[] }[],
    padId: number,
  ): void => {
    const random = new PythonRandom(p.seed);
    const draws: number[] = [];
    const draw = (): number => {
      draws.push(random.random());
      return draws.at(-1) as number;
    };
    const rows = packEsft(buffer, { length: p.length, ratio: p.ratio, padId, draw });
    tally.same(`${where} draws`, p.draws, draws);
    tally.same(
      `${where} rows`,
      { ids: p.input_ids, labels: p.labels },
      { ids: rows.map((r) => r.inputIds), labels: rows.map((r) => r.labels) },
    );
  };
  const buffer = golden.order.map((name) => examples.get(name) as { inputIds: number[]; labels: number[] });
  golden.packed.forEach((p, i) => check(`packed ${i}`, p, buffer, golden.ids.pad));
  golden.synthetic.forEach((p) => {
    let next = 1;
    const made = (p.lengths ?? []).map((n) => {
      const inputIds = Array.from({ length: n }, () => next++);
      return { inputIds, labels: inputIds.map((id) => id + 1000) };
    });
    check(`synthetic: ${p.about ?? ""}`, p, made, 0);
  });
  return tally.row("esft_packing.json");
}

function checkDatasets(folders: Folders): CheckedRow {
  interface File {
    readonly text: string;
    readonly rows: readonly unknown[];
    readonly errors: readonly { line: number; code: string; key: string }[];
  }
  const tally = new Tally();
  const golden = json(folders.root, "datasets.json") as unknown as {
    good: { line: string; shape: string; row: unknown }[];
    bad: { line: string; code: string; key: string }[];
    file?: File;
  };
  const read = (text: string): { rows: unknown[]; errors: unknown[] } => {
    const rows: unknown[] = [];
    const errors: unknown[] = [];
    for (const item of readRows(text)) {
      if (item.ok) rows.push({ line: item.line, shape: item.row.shape, row: item.row.shape === "text" ? item.row.text : item.row.row });
      else errors.push({ line: item.line, ...refusal(item.error) });
    }
    return { rows, errors };
  };
  golden.good.forEach((g, i) => tally.same(`good ${i}`, { rows: [{ line: 1, shape: g.shape, row: g.row }], errors: [] }, read(g.line)));
  golden.bad.forEach((b, i) =>
    tally.same(`bad ${i} ${b.line}`, { rows: [], errors: [{ line: 1, code: b.code, key: b.key }] }, read(b.line)),
  );
  if (golden.file !== undefined) {
    const errors = golden.file.errors.map(({ line, code, key }) => ({ line, code, key }));
    tally.same("file", { rows: golden.file.rows, errors }, read(golden.file.text));
  }
  return tally.row("datasets.json");
}

export async function checkTextGolden(
  root: string,
  more: { tokenizers?: readonly string[]; templates?: readonly string[] } = {},
): Promise<CheckedRow[]> {
  const folders: Folders = {
    root,
    tokenizers: [join(root, "tokenizers"), ...(more.tokenizers ?? [])],
    templates: [join(root, "templates"), ...(more.templates ?? [])],
  };
  const out: CheckedRow[] = [];
  const has = (...path: string[]): boolean => existsSync(join(root, ...path));
  if (has("tokenizers")) {
    for (const name of readdirSync(join(root, "tokenizers")).sort()) {
      if (has("tokenizers", name, "cases.json")) out.push(await checkTokenizer(folders, name));
    }
  }
  const entries = new Map<string, TemplateEntry>();
  for (const dir of folders.templates) {
    if (!existsSync(join(dir, "sources.json"))) continue;
    const sources = json(dir, "sources.json") as unknown as { templates?: TemplateEntry[] } | TemplateEntry[];
    for (const entry of Array.isArray(sources) ? sources : (sources.templates ?? []))
      entries.set(entry.name, { ...entry, bos: entry.bos ?? null, eos: entry.eos ?? null });
  }
  let clock = new Date(2025, 5, 15, 12, 0, 0);
  if (has("templates.json")) {
    const golden = json(root, "templates.json") as unknown as {
      clock: string;
      conversations: Record<string, ConversationEntry>;
      templates: (TemplateEntry & { cases: TemplateCase[] })[];
    };
    clock = new Date(golden.clock);
    for (const entry of golden.templates) {
      entries.set(entry.name, entry);
      out.push(checkTemplate(folders, entry, golden.conversations, clock));
    }
  }
  if (has("masks.json")) out.push(await checkMasks(folders, entries, clock));
  if (has("esft_packing.json")) out.push(await checkPacking(folders));
  if (has("datasets.json")) out.push(checkDatasets(folders));
  return out;
}

async function main(args: readonly string[]): Promise<number> {
  const option = (name: string): string[] => args.flatMap((a, i) => (a === `--${name}` ? [args[i + 1] ?? ""] : []));
  const root = args[0];
  if (root === undefined || root.startsWith("--")) {
    console.error("usage: npx tsx scripts/check-text-golden.ts DIR [--tokenizers DIR …] [--templates DIR …]");
    return 2;
  }
  const rows = await checkTextGolden(root, { tokenizers: option("tokenizers"), templates: option("templates") });
  for (const { name, compared, failures } of rows) {
    console.log(
      `${failures.length === 0 ? "pass" : "FAIL"}  ${name.padEnd(28)} ${String(compared).padStart(6)} compared  ${String(failures.length).padStart(4)} different`,
    );
    for (const failure of failures.slice(0, 5)) console.log(`    ${failure}`);
    if (failures.length > 5) console.log(`    … and ${failures.length - 5} more`);
  }
  const compared = rows.reduce((n, r) => n + r.compared, 0);
  const different = rows.reduce((n, r) => n + r.failures.length, 0);
  console.log(`${compared} compared, ${different} different`);
  return compared > 0 && different === 0 ? 0 : 1;
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  process.exitCode = await main(process.argv.slice(2));
}
