// Adaptation: an invented language over known words. Every word of a sentence has another one in its place, adjectives stand behind their
// noun, and the verb comes last. The words are ones that pretraining saw often; that they stand for each other it never saw.
import { Rng } from "../rng.ts";
import { chatRow, drawAccepted, type Fact } from "../domains/types.ts";
import type { Task } from "./types.ts";

const NOUNS = ["king", "bird", "dog", "boat", "tree", "fish", "door", "town", "wolf", "lake", "goat", "moon"] as const;
const ADJECTIVES = ["old", "small", "red", "blue", "green", "cold"] as const;
const VERBS = ["sees", "finds", "carries", "sells", "hides"] as const;

/** A word of each list → another one of the same list: a cycle in an order of its own, so that no word stands for itself. */
export const LEXICON: ReadonlyMap<string, string> = new Map(
  [NOUNS, ADJECTIVES, VERBS].flatMap((list: readonly string[]) => {
    const order = new Rng(`cipher ${list[0]}`).shuffle(list);
    return order.map((word, i): [string, string] => [word, order[(i + 1) % order.length]!]);
  }),
);

function drawSentence(rng: Rng): Fact {
  const [subject, object] = rng.sample(NOUNS, 2) as [string, string];
  const [one, other, verb] = [rng.pick(ADJECTIVES), rng.pick(ADJECTIVES), rng.pick(VERBS)];
  const to = (word: string): string => LEXICON.get(word)!;
  const text = `the ${one} ${subject} ${verb} the ${other} ${object}`;
  return {
    key: text,
    question: `Say in the other tongue: ${text}`,
    answer: [subject, one, object, other, verb].map(to).join(" "),
  };
}

export const cipher: Task = {
  name: "cipher",
  kind: "adaptation",
  about: "sentences in an invented language over known words",
  make: (rng, accept) => chatRow([drawAccepted(() => drawSentence(rng), accept)]),
};
