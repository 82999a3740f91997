// The official ESFT evaluator of the intent task (IntentEvaluator in benchmarks.py of deepseek-ai/ESFT): 1 where intent and slots of
// the answer's JSON are those of the first reference, else 0.
//
// Its rules, as they are: white space, then full stops (. and 。) are taken off both ends; of an answer with a ```json fence what
// stands inside; then the first line that is not empty. Intents must be equal. Slots must be equal as sets: lists as sorted lists of
// texts, texts as they are, and spaces inside the answer's (not inside the reference's) do not count. A slot of the answer that is
// neither text nor list makes it wrong. Where the official program would end with an error (an answer that is JSON but no object, an
// empty fence) the score is 0. NaN and Infinity, which Python reads as JSON, are not read here.

import { DataError } from "../errors.ts";
import { ExactNumber, isJsonObject, parseJson, type JsonValue } from "../text/python_json.ts";
import { pythonFloatRepr, pythonStringRepr, pythonStrip } from "../text/python_text.ts";
import { meanMetric, referencesOf } from "./metric.ts";

const FENCE = "```";

/** The part of an answer that is read as JSON. */
function jsonPart(answer: string): string {
  let text = pythonStrip(pythonStrip(answer), "both", ".。");
  const fence = text.indexOf(`${FENCE}json`);
  if (fence >= 0) {
    const inside = text.slice(fence + 7);
    const end = inside.indexOf(FENCE);
    text = end < 0 ? "{}" : inside.slice(0, end);
  }
  return pythonStrip(text.split("\n").find((line) => line !== "") ?? "", "both", ".。");
}

/** An object's entries; null where it is none. */
function entriesOf(value: JsonValue | undefined): [string, JsonValue][] | null {
  if (value instanceof Map) return [...value];
  return isJsonObject(value) ? Object.entries(value) : null;
}

/** repr() of what json.loads makes. */
function repr(value: JsonValue): string {
  if (typeof value === "string") return pythonStringRepr(value);
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "number") return Number.isInteger(value) ? String(value) : pythonFloatRepr(value);
  if (value instanceof ExactNumber) return value.isFloat ? pythonFloatRepr(Number(value.text)) : BigInt(value.text).toString();
  if (Array.isArray(value)) return `[${value.map(repr).join(", ")}]`;
  return `{${(entriesOf(value) ?? []).map(([key, v]) => `${repr(key)}: ${repr(v)}`).join(", ")}}`;
}

/** str(tuple(sorted(…))) of a list's items as texts. */
function tuple(items: readonly JsonValue[], clean: (text: string) => string): string {
  const texts = items.map((item) => clean(typeof item === "string" ? item : repr(item))).sort();
  return `(${texts.map(pythonStringRepr).join(", ")}${texts.length === 1 ? "," : ""})`;
}

/** Slots as texts; null where one is neither text nor list, or they are no object. An absent key has none. */
function slotsOf(slots: JsonValue | undefined, clean: (text: string) => string): Map<string, string> | null {
  const entries = slots === undefined ? [] : entriesOf(slots);
  const out = new Map<string, string>();
  for (const [key, value] of entries ?? []) {
    if (typeof value !== "string" && !Array.isArray(value)) return null;
    out.set(key, Array.isArray(value) ? tuple(value, clean) : clean(value));
  }
  return entries && out;
}

function parsed(text: string): Map<string, JsonValue> | null {
  try {
    const entries = entriesOf(parseJson(text));
    return entries && new Map(entries);
  } catch {
    return null;
  }
}

export function intentScore(answer: string, reference: string, place = "reference"): number {
  const right = parsed(jsonPart(reference)); // training data has "{…}。" as its answers
  if (right === null) {
    const says = `${place}: expected a reference that is a JSON object with intent and slots, found ${JSON.stringify(reference.slice(0, 200))}`;
    throw new DataError(says, { where: { place } });
  }
  const given = parsed(jsonPart(answer));
  const intentOf = (object: Map<string, JsonValue>): string => repr(object.has("intent") ? object.get("intent")! : "");
  if (given === null || intentOf(given) !== intentOf(right)) return 0;
  const [slots, expected] = [slotsOf(given.get("slots"), (text) => text.replaceAll(" ", "")), slotsOf(right.get("slots"), (text) => text)];
  if (slots === null || expected === null || slots.size !== expected.size) return 0;
  return [...expected].every(([key, value]) => slots.get(key) === value) ? 1 : 0;
}

export const intent = meanMetric("intent", (row) => intentScore(row.answer, referencesOf(row)[0], row.place));
