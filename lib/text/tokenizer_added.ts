// Added tokens: strings of tokenizer.json that are cut out of the text before anything else sees it.
// Leftmost-longest search, then the three flags (single_word, lstrip, rstrip) with Rust's idea of white space and words.

import { ConfigError } from "../errors.ts";
import { WHITE_SPACE, WORD } from "./tokenizer_pattern.ts";

export interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly singleWord: boolean;
  readonly lstrip: boolean;
  readonly rstrip: boolean;
  readonly normalized: boolean;
  readonly special: boolean;
}

/** A piece of text; `id` when it is an added token (then `text` includes the white space the token swallowed). */
export interface Section {
  readonly text: string;
  readonly id?: number;
}

const WORD_AT_END = new RegExp(`[${WORD}]$`, "u");
const WORD_AT_START = new RegExp(`^[${WORD}]`, "u");
const SPACE = new RegExp(`[${WHITE_SPACE}]`, "u");

export function readAddedTokens(list: unknown): AddedToken[] {
  if (list === undefined || list === null) return [];
  if (!Array.isArray(list)) throw new ConfigError("tokenizer.json: added_tokens must be an array", { where: { key: "added_tokens" } });
  return list.map((raw: unknown, i) => {
    const t = raw as Record<string, unknown>;
    if (typeof t?.["content"] !== "string" || !Number.isInteger(t["id"])) {
      throw new ConfigError(`tokenizer.json: added_tokens[${i}] needs an integer id and a text content`, {
        where: { key: `added_tokens[${i}]` },
      });
    }
    const flag = (name: string, otherwise: boolean): boolean => (typeof t[name] === "boolean" ? (t[name] as boolean) : otherwise);
    const special = flag("special", false);
    return {
      id: t["id"] as number,
      content: t["content"],
      singleWord: flag("single_word", false),
      lstrip: flag("lstrip", false),
      rstrip: flag("rstrip", false),
      normalized: flag("normalized", !special),
      special,
    };
  });
}

interface TrieNode {
  readonly next: Map<number, TrieNode>;
  token: AddedToken | null;
  length: number;
}

const newNode = (): TrieNode => ({ next: new Map(), token: null, length: 0 });

/** Finds one set of added tokens in a text. `spelling` gives the form to look for (the normalized one in the second pass). */
export class AddedTokenMatcher {
  readonly #root = newNode();

  constructor(tokens: readonly AddedToken[], spelling: (token: AddedToken) => string = (t) => t.content) {
    for (const token of tokens) {
      const text = spelling(token);
      if (text === "") continue;
      let node = this.#root;
      for (let i = 0; i < text.length; i++) {
        const code = text.charCodeAt(i);
        let next = node.next.get(code);
        if (next === undefined) node.next.set(code, (next = newNode()));
        node = next;
      }
      node.token ??= token; // of two tokens with one spelling the first wins
      node.length = text.length;
    }
  }

  #longestAt(text: string, start: number): TrieNode | null {
    let node = this.#root.next.get(text.charCodeAt(start));
    let best: TrieNode | null = null;
    for (let i = start + 1; node !== undefined; i++) {
      if (node.token !== null) best = node;
      if (i >= text.length) break;
      node = node.next.get(text.charCodeAt(i));
    }
    return best;
  }

  split(text: string): Section[] {
    if (this.#root.next.size === 0) return text === "" ? [] : [{ text }];
    const out: Section[] = [];
    let done = 0;
    for (let i = 0; i < text.length;) {
      const found = this.#longestAt(text, i);
      if (found === null || found.token === null) {
        i++;
        continue;
      }
      const { token } = found;
      let start = i;
      let stop = i + found.length;
      i = stop;
      if (token.singleWord && (WORD_AT_END.test(lastChar(text, start)) || WORD_AT_START.test(text.slice(stop, stop + 2)))) continue;
      if (token.lstrip) while (start > done && SPACE.test(text[start - 1] as string)) start--;
      if (token.rstrip) while (stop < text.length && SPACE.test(text[stop] as string)) stop++;
      if (done < start) out.push({ text: text.slice(done, start) });
      out.push({ text: text.slice(Math.min(start, stop), stop), id: token.id });
      done = stop;
    }
    if (done < text.length) out.push({ text: text.slice(done) });
    return out;
  }
}

function lastChar(text: string, end: number): string {
  const low = text.charCodeAt(end - 1);
  return text.slice(low >= 0xdc00 && low <= 0xdfff ? end - 2 : end - 1, end);
}
