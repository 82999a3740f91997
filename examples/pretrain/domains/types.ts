// What every text generator produces.
import type { Rng } from "../rng.ts";

export interface Message {
  readonly role: "user" | "assistant";
  readonly content: string;
}

/** A plain document, or a conversation in the `messages` shape. */
export type Row = { readonly text: string } | { readonly messages: readonly Message[] };

/** A question and its answer, correct by construction; `key` names the content whatever the wording, and decides the split. */
export interface Fact {
  readonly question: string;
  readonly answer: string;
  readonly key: string;
}

export interface Domain {
  readonly name: string;
  readonly about: string;
  /** The domain whose split this one shares, key for key (default: its own): what is held out of one is held out of both. */
  readonly splitAs?: string;
  /** One row. Every content it shows has a key that `accept` took: that is how train and eval stay disjoint. */
  readonly make: (rng: Rng, accept: (key: string) => boolean) => Row;
}

/** Draws until `accept` takes the content; a generator whose contents are all refused is a bug and says so. */
export function drawAccepted<T extends { readonly key: string }>(draw: () => T, accept: (key: string) => boolean): T {
  for (let i = 0; i < 1000; i++) {
    const item = draw();
    if (accept(item.key)) return item;
  }
  throw new RangeError("a generator found no acceptable content in 1000 draws");
}

/** A conversation of `turns` questions with their answers. */
export function chatRow(facts: readonly Fact[]): Row {
  const messages: Message[] = [];
  for (const fact of facts) {
    messages.push({ role: "user", content: fact.question }, { role: "assistant", content: fact.answer });
  }
  return { messages };
}
