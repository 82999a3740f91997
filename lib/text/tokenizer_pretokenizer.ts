// Pre-tokenizers of tokenizer.json: a piece of text → the words that the model encodes one by one.

import { ConfigError } from "../errors.ts";
import { toByteAlphabet } from "./tokenizer_bytes.ts";
import { BYTE_LEVEL_REGEX, compilePattern, escapeRegExp, NUMERIC, PUNCTUATION, WHITE_SPACE, WORD } from "./tokenizer_pattern.ts";

/** Words in order; `atStart`: the first one begins where the whole text begins (Metaspace's "first" asks for it). */
export interface Words {
  readonly words: readonly string[];
  readonly atStart: boolean;
}
export type PreTokenizer = (input: Words) => Words;

type Behavior = "Removed" | "Isolated" | "MergedWithPrevious" | "MergedWithNext" | "Contiguous";
interface Span {
  start: number;
  end: number;
  readonly removed: boolean;
}
type Config = Readonly<Record<string, unknown>>;

const BEHAVIORS: readonly Behavior[] = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"];

export function buildPreTokenizer(config: unknown, where = "pre_tokenizer"): PreTokenizer | null {
  if (config === null || config === undefined) return null;
  const c = config as Config;
  switch (c["type"]) {
    case "Sequence": {
      const list = (c["pretokenizers"] as unknown[])
        .map((p, i) => buildPreTokenizer(p, `${where}.pretokenizers[${i}]`))
        .filter((p) => p !== null);
      return list.length === 0 ? null : (input) => list.reduce((words, step) => step(words), input);
    }
    case "ByteLevel":
      return byteLevel(c["add_prefix_space"] !== false, c["use_regex"] !== false);
    case "Split":
      return splitting(compilePattern(c["pattern"], where), behavior(c["behavior"], where), c["invert"] === true);
    case "Digits":
      return splitting(new RegExp(`[${NUMERIC}]`, "gu"), c["individual_digits"] === true ? "Isolated" : "Contiguous");
    case "Punctuation":
      return splitting(new RegExp(`[${PUNCTUATION}]`, "gu"), behavior(c["behavior"] ?? "Isolated", where));
    case "Whitespace":
      return splitting(new RegExp(`[${WORD}]+|[^${WORD}${WHITE_SPACE}]+`, "gu"), "Removed", true);
    case "WhitespaceSplit":
      return splitting(new RegExp(`[${WHITE_SPACE}]`, "gu"), "Removed");
    case "BertPreTokenizer": {
      const space = splitting(new RegExp(`[${WHITE_SPACE}]`, "gu"), "Removed");
      const punctuation = splitting(new RegExp(`[${PUNCTUATION}]`, "gu"), "Isolated");
      return (input) => punctuation(space(input));
    }
    case "CharDelimiterSplit":
      return splitting(new RegExp(escapeRegExp(String(c["delimiter"])), "gu"), "Removed");
    case "Metaspace":
      return metaspace(c, where);
    default:
      throw new ConfigError(
        `tokenizer.json: unsupported pre-tokenizer ${JSON.stringify(c["type"])} at ${where}; supported: Sequence, ByteLevel, Split, Digits, Punctuation, Whitespace, WhitespaceSplit, BertPreTokenizer, CharDelimiterSplit, Metaspace`,
        { where: { key: where } },
      );
  }
}

function behavior(given: unknown, where: string): Behavior {
  const found = BEHAVIORS.find((b) => b === given);
  if (found === undefined) {
    throw new ConfigError(`tokenizer.json: ${where}.behavior is ${JSON.stringify(given)}; known: ${BEHAVIORS.join(", ")}`, {
      where: { key: `${where}.behavior` },
    });
  }
  return found;
}

/** Applies `cut` to every word; empty words vanish. */
function each(input: Words, cut: (word: string, atStart: boolean, emit: (word: string, atStart: boolean) => void) => void): Words {
  const words: string[] = [];
  let atStart = false;
  const emit = (word: string, isStart: boolean): void => {
    if (word === "") return;
    if (words.length === 0) atStart = isStart;
    words.push(word);
  };
  for (let i = 0; i < input.words.length; i++) cut(input.words[i] as string, i === 0 && input.atStart, emit);
  return { words, atStart };
}

function splitting(pattern: RegExp, how: Behavior, invert = false): PreTokenizer {
  return (input) =>
    each(input, (word, atStart, emit) => {
      for (const { start, end, removed } of splitSpans(word, pattern, how, invert)) {
        if (!removed) emit(word.slice(start, end), atStart && start === 0);
      }
    });
}

// Matches and gaps of `pattern` over the word, joined as the behaviour says. A gap never touches another gap.
function splitSpans(word: string, pattern: RegExp, how: Behavior, invert: boolean): Span[] {
  const pieces: { start: number; end: number; match: boolean }[] = [];
  let at = 0;
  for (const found of word.matchAll(pattern)) {
    const end = found.index + found[0].length;
    if (at !== found.index) pieces.push({ start: at, end: found.index, match: invert });
    pieces.push({ start: found.index, end, match: !invert });
    at = end;
  }
  if (at !== word.length) pieces.push({ start: at, end: word.length, match: invert });
  if (how === "Isolated" || how === "Removed") {
    return pieces.map(({ start, end, match }) => ({ start, end, removed: how === "Removed" && match }));
  }
  const out: Span[] = [];
  let previous = false;
  for (const { start, end, match } of how === "MergedWithNext" ? pieces.reverse() : pieces) {
    const last = out.at(-1);
    const joins = how === "Contiguous" ? match === previous : match && !previous;
    if (joins && last !== undefined) {
      if (how === "MergedWithNext") last.start = start;
      else last.end = end;
    } else out.push({ start, end, removed: false });
    previous = match;
  }
  return how === "MergedWithNext" ? out.reverse() : out;
}

function byteLevel(addPrefixSpace: boolean, useRegex: boolean): PreTokenizer {
  return (input) =>
    each(input, (word, atStart, emit) => {
      const text = addPrefixSpace && !word.startsWith(" ") ? ` ${word}` : word;
      if (!useRegex) return emit(toByteAlphabet(text), atStart);
      for (const { start, end } of splitSpans(text, BYTE_LEVEL_REGEX, "Isolated", false)) {
        emit(toByteAlphabet(text.slice(start, end)), atStart && start === 0);
      }
    });
}

/** "always" unless prepend_scheme says otherwise; the old add_prefix_space: false means "never". */
export function prependScheme(c: Config, where: string): "always" | "first" | "never" {
  const scheme = c["prepend_scheme"] ?? (c["add_prefix_space"] === false ? "never" : "always");
  if (scheme === "always" || scheme === "first" || scheme === "never") return scheme;
  throw new ConfigError(`tokenizer.json: ${where}.prepend_scheme is ${JSON.stringify(scheme)}; known: always, first, never`, {
    where: { key: where },
  });
}

function metaspace(c: Config, where: string): PreTokenizer {
  const mark = String(c["replacement"] ?? "▁");
  const scheme = prependScheme(c, where);
  const pattern = new RegExp(escapeRegExp(mark), "gu");
  const split = c["split"] !== false;
  return (input) =>
    each(input, (word, atStart, emit) => {
      const marked = word.replaceAll(" ", mark);
      const prepend = !marked.startsWith(mark) && (scheme === "always" || (scheme === "first" && atStart));
      const text = prepend ? mark + marked : marked;
      if (!split) return emit(text, atStart);
      for (const { start, end } of splitSpans(text, pattern, "MergedWithNext", false)) emit(text.slice(start, end), atStart && start === 0);
    });
}
