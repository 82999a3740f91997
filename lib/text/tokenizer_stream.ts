// Text of ids that arrive one by one. All pieces together are decode() of all ids, and none ends inside a character.
//
// What an id means depends on its neighbours: a decoder drops the space in front of a text, bytes of one character lie in several
// tokens, and a run of byte tokens (<0xE4>) is text or not as a whole. So a few ids are decoded again together with the new one, and
// what they gave before is cut off. The work per id is bounded, whatever the ids are.

const REPLACEMENT = "\ufffd"; // what stands for bytes that are no character, or not yet
const BYTE_TOKEN = /^<0x[\dA-F]{2}>$/;
/** Ids that are decoded again while no character ends, at most; and how many of them stay when there are more: they hold more bytes
 * than one character at each end. */
const LONGEST_WINDOW = 32;
const KEPT = 16;

export class DecodeStream {
  readonly #decode: (ids: readonly number[]) => string;
  readonly #token: (id: number) => string | null;
  // The ids that gave the text up to the last whole character, and those since. The former keep the decoder's rules for the beginning
  // of a text (a dropped space) out of the middle.
  #window: number[] = [];
  #whole = 0; // ids of the window that ended in a whole character
  #shown = 0; // UTF-16 units of the window's text that were given out

  /** @param token what decode makes of the id; null where it leaves it out */
  constructor(decode: (ids: readonly number[]) => string, token: (id: number) => string | null) {
    this.#decode = decode;
    this.#token = token;
  }

  /** The text that the id completes; empty while a character is unfinished. */
  push(id: number): string {
    const token = this.#token(id);
    if (token === null) return "";
    this.#window.push(id);
    if (BYTE_TOKEN.test(token)) return ""; // the run may go on, and is decided with its last byte
    const text = this.#decode(this.#window);
    // only the last replacement may be the beginning of a character
    const piece = text.slice(this.#shown, text.endsWith(REPLACEMENT) ? -1 : undefined);
    this.#shown += piece.length;
    if (this.#shown < text.length) this.#shorten();
    else if (piece !== "") {
      this.#window = this.#window.slice(this.#whole);
      this.#whole = this.#window.length;
      this.#shown = this.#decode(this.#window).length;
    }
    return piece;
  }

  /**
   * The ids that the text goes on from: nothing of them is given out, and what comes does not begin a text. A character that they leave
   * unfinished is given out as a whole.
   */
  follow(ids: readonly number[]): this {
    let from = Math.max(0, ids.length - LONGEST_WINDOW);
    while (from > 0 && BYTE_TOKEN.test(this.#token(ids[from]!) ?? "<0x00>")) from--;
    for (const id of ids.slice(from)) this.push(id);
    this.#shown = this.#decode(this.#window).replace(/\ufffd+$/, "").length;
    return this;
  }

  /** What is left when no more ids come. */
  end(): string {
    const piece = this.#decode(this.#window).slice(this.#shown);
    this.#window = [];
    this.#whole = 0;
    this.#shown = 0;
    return piece;
  }

  /** Bytes without end that are no characters: the last ones decide what follows, wherever one begins to read. */
  #shorten(): void {
    if (this.#window.length <= LONGEST_WINDOW) return;
    const kept = this.#window.slice(-KEPT);
    const text = this.#decode(kept);
    if (!text.endsWith(REPLACEMENT)) return;
    this.#whole = Math.max(0, this.#whole - (this.#window.length - KEPT));
    this.#window = kept;
    this.#shown = text.length - 1;
  }
}
