// Enhancement of strings: five edits of lists of words, as in pretraining and somewhat longer.
import type { Rng } from "../rng.ts";
import { byCode } from "../domains/strings.ts";
import { chatRow, drawAccepted, type Fact } from "../domains/types.ts";
import { WORDS } from "../domains/words.ts";
import type { Task } from "./types.ts";

/** Pretraining sorts up to four words, reverses five, joins four, spells in capitals three, says twice two. */
const EDITS: Readonly<
  Record<string, { readonly words: readonly [low: number, high: number]; readonly of: (words: readonly string[]) => string }>
> = {
  sort: { words: [3, 5], of: (words) => [...words].sort(byCode).join(" ") },
  reverse: { words: [3, 6], of: (words) => [...words].reverse().join(" ") },
  join: { words: [3, 5], of: (words) => words.join("-") },
  uppercase: { words: [2, 4], of: (words) => words.join(" ").toUpperCase() },
  double: { words: [2, 3], of: (words) => words.map((word) => `${word} ${word}`).join(" ") },
};

function drawEdit(rng: Rng): Fact {
  const edit = rng.pick(Object.keys(EDITS));
  const { words: range, of } = EDITS[edit]!;
  const words = rng.sample(WORDS, rng.int(...range));
  const task = `${edit}: ${words.join(" ")}`;
  return { key: task, question: task, answer: of(words) };
}

export const edits: Task = {
  name: "edits",
  kind: "enhancement",
  splitAs: "strings",
  about: "edits of lists of words, of longer ones too",
  make: (rng, accept) => chatRow([drawAccepted(() => drawEdit(rng), accept)]),
};
