// The text of single tokens, for log-probabilities: with the space that it brings, which decoders drop in front of a text.

import type { Tokenizer } from "../text/tokenizer.ts";

const REPLACEMENT = "\ufffd"; // bytes that are no character by themselves

export class TokenText {
  private readonly tokenizer: Pick<Tokenizer, "decode">;
  private readonly known = new Map<number, string>();

  constructor(tokenizer: Pick<Tokenizer, "decode">) {
    this.tokenizer = tokenizer;
  }

  of(id: number): string {
    let text = this.known.get(id);
    if (text === undefined) {
      // What it adds when it comes a second time.
      text = this.tokenizer.decode([id, id]).slice(this.tokenizer.decode([id]).length);
      this.known.set(id, text);
    }
    return text;
  }

  /** UTF-8; null for a part of a character, whose bytes are not told. */
  bytes(id: number): number[] | null {
    const text = this.of(id);
    return text.includes(REPLACEMENT) ? null : [...Buffer.from(text)];
  }
}

/** JSON has no −∞: OpenAI's API says this. */
export const shownLogprob = (logprob: number): number => Math.max(logprob, -9999);
