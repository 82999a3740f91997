// Text of ids that arrive one by one. All pieces together are decode() of all ids, and none ends inside a character.

export class DecodeStream {
  readonly #decode: (ids: readonly number[]) => string;
  readonly #token: (id: number) => string | null;
  // The ids that gave the last piece and those since. The former keep the decoder's rules for the beginning of a text (a dropped
  // space) out of the middle.
  #window: number[] = [];
  #shown = 0; // ids of the window that gave text already

  /** @param token what decode makes of the id; null where it leaves it out */
  constructor(decode: (ids: readonly number[]) => string, token: (id: number) => string | null) {
    this.#decode = decode;
    this.#token = token;
  }

  /** The text that the id completes; empty while a character is unfinished. */
  push(id: number): string {
    this.#window.push(id);
    const piece = this.#fresh();
    // a run of byte tokens is text or not as a whole, whatever is left out inside; U+FFFD may be the beginning of a character
    const token = this.#token(id);
    if (token === null || /^<0x[\dA-F]{2}>$/.test(token) || piece === "" || piece.endsWith("\ufffd")) return "";
    this.#window = this.#window.slice(this.#shown);
    this.#shown = this.#window.length;
    return piece;
  }

  /** What is left when no more ids come. */
  end(): string {
    const piece = this.#fresh();
    this.#window = [];
    this.#shown = 0;
    return piece;
  }

  #fresh(): string {
    return this.#decode(this.#window).slice(this.#decode(this.#window.slice(0, this.#shown)).length);
  }
}
