// JSONL rows of every shape: whatever is accepted has the messages, tools and flags that the line spells.

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { Dataset } from "../../../lib/data/dataset.ts";
import type { ReadRow } from "../../../lib/data/lines.ts";
import { readRow } from "../../../lib/data/lines.ts";
import type { Case, Format } from "../case.ts";
import { difference, mutateBytes, mutateJson } from "../case.ts";
import { toTree } from "../tree.ts";

type Json = Readonly<Record<string, unknown>>;

const call = { type: "function", id: "c1", function: { name: "add", arguments: { a: 1, "10": 2.0, b: [true, null] } } };
const tools = [
  {
    type: "function",
    function: { name: "add", description: "adds", parameters: { type: "object", properties: { a: { type: "number" } } } },
  },
];
const SEEDS: readonly Json[] = [
  { messages: [{ role: "system", content: "Be brief." }, { role: "user", content: "Hi" }, { role: "assistant", content: "Hello." }] },
  { messages: [{ role: "user", content: "a" }, { role: "assistant", content: "b", train: false }, { role: "user", content: "c" }, { role: "assistant", content: "d", weight: 1 }] },
  { messages: [{ role: "user", content: [{ type: "text", text: "x" }, { type: "text", text: "y" }] }, { role: "assistant", content: "z", loss: true, mask: 0 }] },
  { messages: [{ role: "user", content: "1+2" }, { role: "assistant", content: null, tool_calls: [call] }, { role: "tool", content: "3" }, { role: "assistant", content: "3" }], tools },
  { conversations: [{ from: "human", value: "é 👍" }, { from: "gpt", value: "ü" }], system: "S" },
  { conversations: [{ from: "human", value: "q" }, { from: "function_call", value: '{"name": "f", "arguments": {"x": 1.0}}' }, { from: "observation", value: "7" }, { from: "gpt", value: "r" }], tools: JSON.stringify(tools) },
  { instruction: "Add.", input: "1 2", output: "3", history: [["p", "q"]], system: "" },
  { prompt: "p", completion: "c" },
  { prompt: [{ role: "user", content: "p" }, { role: "assistant", content: "no" }], completion: [{ role: "assistant", content: "c" }] },
]; // prettier-ignore

export const rows: Format = {
  name: "rows",
  async open(dir) {
    const path = join(dir, "rows.jsonl");
    const trees = SEEDS.map(toTree);
    const all = Buffer.from(SEEDS.map((s) => JSON.stringify(s)).join("\n") + "\n");
    return (dice): Case => {
      if (dice.top.once(12)) {
        const { bytes, steps, same } = mutateBytes(all, dice);
        return {
          steps,
          same,
          files: { "rows.jsonl": bytes },
          file: "rows.jsonl",
          parse: async () => {
            writeFileSync(path, bytes);
            const found: ReadRow[] = [];
            for await (const row of Dataset.fromFile(path).rows()) found.push(row);
            return found;
          },
          judge: (found: readonly ReadRow[]) => judgeFile(bytes, found),
        };
      }
      const i = dice.top.below(SEEDS.length);
      const { bytes, steps, same } = mutateJson(trees[i]!, dice);
      const line = Buffer.from(bytes).toString();
      return {
        steps,
        files: { "rows.jsonl": bytes },
        file: "rows.jsonl",
        same: same && !line.includes("\n"), // a line is a line
        parse: () => {
          const row = readRow(line, 7, { file: "rows.jsonl" });
          if (row?.ok === false) throw row.error;
          return row;
        },
        judge: (row: ReadRow | null) => judgeLine(line, row),
      };
    };
  },
};

/** Lines are those of the file, each is what it is alone, and bad ones say where. */
function judgeFile(bytes: Uint8Array, found: readonly ReadRow[]): string | null {
  const latin = Buffer.from(bytes).toString("latin1").replace(/^\xef\xbb\xbf/, ""); // prettier-ignore
  const lines = latin.split("\n").map((l) => Buffer.from(l, "latin1"));
  for (const row of found) {
    const own = lines[row.line - 1];
    if (!own) return `a row of line ${row.line} in a file of ${lines.length} lines`;
    const valid = Buffer.compare(Buffer.from(own.toString()), own) === 0;
    if (!valid && row.ok) return `accepted line ${row.line}, which is not UTF-8`;
    if (!row.ok && !row.error.message.includes(`rows.jsonl:${row.line}:`))
      return `a refusal that does not name line ${row.line}: ${row.error.message}`;
    const fault = row.ok ? judgeLine(own.toString(), row) : null;
    if (fault !== null) return `line ${row.line}: ${fault}`;
  }
  const blank = (l: Buffer): boolean => l.toString().trim() === "" || /^[\s\x1c-\x1f\x85]*$/.test(l.toString()); // eslint-disable-line no-control-regex
  const missing = lines.findIndex((l, i) => !blank(l) && !found.some((row) => row.line === i + 1));
  return missing === -1 ? null : `line ${missing + 1} is gone`;
}

function judgeLine(line: string, row: ReadRow | null): string | null {
  if (row === null) return /\S/.test(line.replace(/[\x1c-\x1f\x85]/g, "")) ? "took a row for a blank line" : null; // eslint-disable-line no-control-regex
  if (!row.ok || row.row.shape === "text") return "accepted a bad row";
  let said: Json;
  try {
    said = JSON.parse(line) as Json;
  } catch {
    return "accepted what is not JSON";
  }
  const { messages, tools: given } = row.row.row;
  const wanted = expected(said);
  const plain = JSON.parse(JSON.stringify({ messages, tools: given }, asJson)) as Json;
  return difference(JSON.parse(JSON.stringify(wanted)), plain, "row");
}

const asJson = (_: string, value: unknown): unknown => (value instanceof Map ? Object.fromEntries(value) : value);

const FLAGS = ["mask", "train", "weight", "loss"];

/** One message as templates see it; `train: false` where no loss is wanted. */
function message(m: Json, role: unknown, content: unknown): Json {
  const parts = Array.isArray(content) ? (content as Json[]).map((p) => p["text"]).join("") : (content ?? null);
  const rest = Object.fromEntries(Object.entries(m).filter(([key]) => !["role", "content", ...FLAGS].includes(key)));
  const off = m["mask"] === 1 || m["mask"] === true || m["train"] === false || m["weight"] === 0 || m["loss"] === false;
  return { role, content: parts, ...rest, ...(role === "assistant" && off ? { train: false } : {}) };
}

function expected(said: Json): unknown {
  const list = (key: string): Json[] => said[key] as Json[];
  const own = (key: string): boolean => Object.hasOwn(said, key);
  const plain = (m: Json): Json => message(m, m["role"], m["content"]);
  let messages: Json[];
  if (own("messages")) messages = list("messages").map(plain);
  else if (own("conversations"))
    messages = list("conversations").map((m) => {
      if (Object.hasOwn(m, "role") && !Object.hasOwn(m, "from")) return plain(m);
      const { from, value, ...rest } = m;
      if (from !== "function_call")
        return message(rest, { human: "user", gpt: "assistant", observation: "tool" }[from as string] ?? from, value);
      const calls = JSON.parse(value as string) as Json | Json[];
      const tool_calls = (Array.isArray(calls) ? calls : [calls]).map((c) => ({
        type: "function",
        function: { name: c["name"], arguments: c["arguments"] },
      }));
      return message({ ...rest, tool_calls }, "assistant", null);
    });
  else if (own("instruction")) {
    const input = said["input"] ?? "";
    messages = [
      ...((said["history"] ?? []) as string[][]).flatMap(([a, b]) => [{ role: "user", content: a }, { role: "assistant", content: b }]),
      { role: "user", content: String(said["instruction"]) + (input === "" ? "" : `\n${String(input)}`) },
      { role: "assistant", content: said["output"] },
    ]; // prettier-ignore
  } else if (typeof said["prompt"] === "string")
    messages = [{ role: "user", content: said["prompt"] }, { role: "assistant", content: said["completion"] }]; // prettier-ignore
  else
    messages = [
      ...list("prompt").map((m) => (m["role"] === "assistant" ? { ...plain(m), train: false } : plain(m))),
      ...list("completion").map(plain),
    ];
  const system = said["system"];
  if (!own("messages") && system !== undefined && system !== null && system !== "")
    messages = [{ role: "system", content: system }, ...messages];
  const given =
    typeof said["tools"] === "string" ? (JSON.parse(said["tools"]) as unknown[]) : (said["tools"] as unknown[] | null | undefined);
  return { messages, ...(given && given.length > 0 ? { tools: given } : {}) };
}
