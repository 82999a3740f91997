// Token ids → pieces of text while they arrive: all pieces together are the decoded ids, and none ends inside a character.
//
// text/tokenizer_stream.ts knows how: a character whose bytes lie in several tokens is held back until its last one, and so is a run
// of byte tokens, which is text or not as a whole. Here is what an answer adds: special tokens are no text unless they are asked for,
// and a text that goes on from a prompt keeps the space in front of its first word.

import { listArgument, optionsArgument, wholeArgument } from "../arguments.ts";
import type { DecodeStream } from "../text/tokenizer_stream.ts";
import type { Tokenizer } from "../text/tokenizer.ts";

export interface PieceOptions {
  /** Default true: what ends a turn is no text of it. */
  readonly skipSpecialTokens?: boolean;
  /**
   * Ids of the text that the pieces go on from, a completion's prompt; at least the last ones of it. Without them the pieces are a text
   * of their own, as an answer in a chat is: decoders that drop a space at the beginning drop it.
   */
  readonly after?: readonly number[];
}

export class Pieces {
  readonly #stream: DecodeStream;

  constructor(tokenizer: Pick<Tokenizer, "decodeStream">, options: PieceOptions = {}) {
    const { skipSpecialTokens = true, after = [] } = optionsArgument(options, "Pieces: options");
    this.#stream = tokenizer.decodeStream({ skipSpecialTokens });
    if (after.length > 0) this.#stream.follow(listArgument(after, "Pieces: after"));
  }

  /** The text that the id completes; empty while a character is unfinished, and for a token that is no text. */
  push(id: number): string {
    return this.#stream.push(wholeArgument(id, "Pieces.push: id"));
  }

  /** What is left when no more ids come: bytes that never became a character are U+FFFD. */
  end(): string {
    return this.#stream.end();
  }
}
