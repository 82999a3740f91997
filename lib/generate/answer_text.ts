// The text of an answer from its token ids: pieces that end before the first stop string.

import { Pieces } from "./pieces.ts";
import type { PieceOptions } from "./pieces.ts";
import type { StopScan, StopStrings } from "./stops.ts";
import type { Tokenizer } from "../text/tokenizer.ts";

/** One answer: push its ids until `stopped`, then end(). All that both return together is the answer. */
export class AnswerText {
  readonly #pieces: Pieces;
  readonly #scan: StopScan | null;

  constructor(tokenizer: Pick<Tokenizer, "decodeStream">, stops: StopStrings | null = null, options: PieceOptions = {}) {
    this.#pieces = new Pieces(tokenizer, options);
    this.#scan = stops === null || stops.strings.length === 0 ? null : stops.scan();
  }

  /** The stop string that ended the answer. */
  get stopped(): string | null {
    return this.#scan?.stopped ?? null;
  }

  push(id: number): string {
    return this.#through(this.#pieces.push(id));
  }

  /** What is left when no more ids come; it may still hold the stop string, so that `stopped` is final only now. */
  end(): string {
    return this.#through(this.#pieces.end()) + (this.#scan?.end() ?? "");
  }

  #through(piece: string): string {
    return this.#scan === null ? piece : this.#scan.push(piece);
  }
}
