// Stop strings over a text that arrives in pieces: the answer ends before the first place where one of them begins.
//
// A stop string may begin anywhere in a piece and span several. What may be the beginning of one is held back until that is decided;
// everything before it goes out at once. All text that went out is text.slice(0, first), with `first` the smallest index of any stop
// string in the whole text, however it was cut into pieces.
//
// The strings are one automaton (Aho and Corasick 1975): its state is the longest end of the text that begins a stop string, so a
// character costs a constant amount of work, whatever was held back before. A string that is found is the end only when no longer
// beginning is still open: of "abcd" and "c" in "abcd" the first begins earlier, and is seen later.

import { listArgument } from "../arguments.ts";
import { ConfigError } from "../errors.ts";
import { shown } from "../options.ts";
import { hasLoneSurrogate } from "../text/python_text.ts";

/** OpenAI takes four; each costs nothing per character. */
export const MAX_STOPS = 16;
/** UTF-16 units of one stop string. */
export const MAX_STOP_LENGTH = 4096;

const ROOT = 0;

/** The stop strings of a request, checked; one automaton serves any number of texts. */
export class StopStrings {
  readonly strings: readonly string[];
  // Nodes are beginnings of stop strings, 0 the empty one.
  readonly #next = new Map<number, number>(); // node · 2^16 + UTF-16 unit → the longer beginning
  readonly #beginning: string[] = [""];
  readonly #shorter: number[] = [ROOT]; // the longest other node that the text ends in as well
  readonly #found: (string | null)[] = [null]; // the longest stop string that the text ends in

  /** @throws ConfigError naming `key`: too many, empty, too long, no text */
  constructor(strings: Iterable<string> = [], key = "stop") {
    this.strings = listArgument(strings, key).map((text, i, all) => checked(text, all.length, all.length === 1 ? key : `${key}[${i}]`));
    for (const text of this.strings) this.#add(text);
    this.#link();
  }

  #add(text: string): void {
    let node = ROOT;
    for (let i = 0; i < text.length; i++) {
      const edge = node * 0x10000 + text.charCodeAt(i);
      let next = this.#next.get(edge);
      if (next === undefined) {
        next = this.#beginning.push(text.slice(0, i + 1)) - 1;
        this.#next.set(edge, next);
        this.#found.push(null);
        this.#shorter.push(ROOT);
      }
      node = next;
    }
    this.#found[node] = text;
  }

  /** Shorter beginnings first, so that what a node refers to is ready. */
  #link(): void {
    const edges = [...this.#next].map(([edge, node]) => ({ from: Math.floor(edge / 0x10000), unit: edge % 0x10000, node }));
    edges.sort((a, b) => this.#beginning[a.node]!.length - this.#beginning[b.node]!.length);
    for (const { from, unit, node } of edges) {
      this.#shorter[node] = from === ROOT ? ROOT : this.step(this.#shorter[from]!, unit);
      this.#found[node] ??= this.#found[this.#shorter[node]!]!;
    }
  }

  /** The node after one more UTF-16 unit. */
  step(node: number, unit: number): number {
    for (let at = node; ; at = this.#shorter[at]!) {
      const next = this.#next.get(at * 0x10000 + unit);
      if (next !== undefined) return next;
      if (at === ROOT) return ROOT;
    }
  }

  /** The text that the node is. */
  beginning(node: number): string {
    return this.#beginning[node]!;
  }

  /** The longest stop string that a text in this state ends in. */
  found(node: number): string | null {
    return this.#found[node]!;
  }

  /** One text from its beginning. */
  scan(): StopScan {
    return new StopScan(this);
  }
}

function checked(text: unknown, count: number, key: string): string {
  const refuse = (expected: string): never => {
    throw new ConfigError(`${key}: expected ${expected}, found ${shown(text)}`, { where: { key } });
  };
  if (count > MAX_STOPS)
    throw new ConfigError(`stop: expected at most ${MAX_STOPS} stop strings, found ${count}`, { where: { key: "stop" } });
  if (typeof text !== "string" || text === "") return refuse("a text that is not empty");
  if (text.length > MAX_STOP_LENGTH) return refuse(`at most ${MAX_STOP_LENGTH} characters`);
  return hasLoneSurrogate(text) ? refuse("text without halves of UTF-16 pairs") : text;
}

/** One text on its way through the stop strings. */
export class StopScan {
  readonly #stops: StopStrings;
  #node = ROOT; // its text is what is held back
  // Where a stop string was found, from the beginning of what is held back; an earlier one may still come true.
  #found: { readonly at: number; readonly stop: string } | null = null;
  #stopped: string | null = null;

  constructor(stops: StopStrings) {
    this.#stops = stops;
  }

  /** The stop string that ended the text; null while none did. What is pushed afterwards is dropped. */
  get stopped(): string | null {
    return this.#stopped;
  }

  /** @returns what is sure to belong to the answer, of this piece and of what was held back */
  push(piece: string): string {
    if (this.#stopped !== null) return "";
    const held = this.#stops.beginning(this.#node);
    const upTo = (at: number): string => (at <= held.length ? held.slice(0, at) : held + piece.slice(0, at - held.length));
    let node = this.#node;
    for (let i = 0; i < piece.length; i++) {
      node = this.#stops.step(node, piece.charCodeAt(i));
      const end = held.length + i + 1;
      const stop = this.#stops.found(node);
      if (stop !== null && (this.#found === null || end - stop.length < this.#found.at)) this.#found = { at: end - stop.length, stop };
      if (this.#found !== null && end - this.#stops.beginning(node).length >= this.#found.at) return upTo(this.#stop());
    }
    this.#node = node;
    const sure = held.length + piece.length - this.#stops.beginning(node).length;
    if (this.#found !== null) this.#found = { ...this.#found, at: this.#found.at - sure };
    return upTo(sure);
  }

  /** What was held back, when no more text comes: up to the stop string that was found in it, if there was one. */
  end(): string {
    if (this.#stopped !== null) return "";
    const held = this.#stops.beginning(this.#node);
    this.#node = ROOT;
    return this.#found === null ? held : held.slice(0, this.#stop());
  }

  #stop(): number {
    this.#stopped = this.#found!.stop;
    this.#node = ROOT;
    return this.#found!.at;
  }
}
