// Sorting and string edits on short words and numbers.
import type { Rng } from "../rng.ts";
import { chatRow, drawAccepted, type Domain, type Fact } from "./types.ts";
import { WORDS } from "./words.ts";

export const byCode = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

type Edit = (rng: Rng) => { readonly task: string; readonly input: string; readonly output: string };

const EDITS: readonly Edit[] = [
  (rng) => {
    const numbers = Array.from({ length: rng.int(3, 5) }, () => rng.int(0, 30));
    const down = rng.chance(0.3);
    const sorted = [...numbers].sort((a, b) => (down ? b - a : a - b));
    return { task: down ? "sort down" : "sort", input: numbers.join(" "), output: sorted.join(" ") };
  },
  (rng) => {
    const words = rng.sample(WORDS, rng.int(3, 4));
    return { task: "sort", input: words.join(" "), output: [...words].sort(byCode).join(" ") };
  },
  (rng) => {
    const words = rng.sample(WORDS, rng.int(2, 5));
    return { task: "reverse", input: words.join(" "), output: [...words].reverse().join(" ") };
  },
  (rng) => {
    const letters = rng.sample([..."abcdefghijklmnopqrstuvwxyz"], rng.int(3, 6));
    return { task: "reverse", input: letters.join(" "), output: [...letters].reverse().join(" ") };
  },
  (rng) => {
    const words = rng.sample(WORDS, rng.int(2, 3)).join(" ");
    return { task: "uppercase", input: words, output: words.toUpperCase() };
  },
  (rng) => {
    const words = rng.sample(WORDS, rng.int(2, 3)).join(" ");
    return { task: "lowercase", input: words.toUpperCase(), output: words };
  },
  (rng) => {
    const word = rng.pick(WORDS);
    return { task: "spell", input: word, output: [...word].join("-") };
  },
  (rng) => {
    const words = rng.sample(WORDS, rng.int(3, 5));
    const first = rng.chance(0.5);
    return { task: first ? "first" : "last", input: words.join(" "), output: words.at(first ? 0 : -1) as string };
  },
  (rng) => {
    const words = rng.sample(WORDS, rng.int(2, 6));
    return { task: "count", input: words.join(" "), output: `${words.length}` };
  },
  (rng) => {
    const words = rng.sample(WORDS, rng.int(2, 4));
    return { task: "join", input: words.join(" "), output: words.join("-") };
  },
  (rng) => {
    const words = rng.sample(WORDS, rng.int(1, 2));
    return { task: "double", input: words.join(" "), output: words.map((word) => `${word} ${word}`).join(" ") };
  },
];

const SENTENCES: Readonly<Record<string, string>> = {
  sort: "Sort from low to high",
  "sort down": "Sort from high to low",
  reverse: "Turn the order around",
  uppercase: "Write in capital letters",
  lowercase: "Write in small letters",
  spell: "Spell the word",
  first: "Give the first word",
  last: "Give the last word",
  count: "Count the words",
  join: "Join with dashes",
  double: "Say each word twice",
};

export const strings: Domain = {
  name: "strings",
  about: "sorting, reversing, spelling, joining and changing the case of short lists",
  make(rng, accept) {
    const draw = (): Fact & { readonly line: string } => {
      const { task, input, output } = rng.pick(EDITS)(rng);
      const sentence = SENTENCES[task] ?? task;
      return {
        key: `${task}: ${input}`,
        question: rng.chance(0.5) ? `${task}: ${input}` : `${sentence}: ${input}`,
        answer: output,
        line: `${task}: ${input} -> ${output}`,
      };
    };
    if (rng.chance(0.55)) {
      return chatRow(Array.from({ length: rng.int(2, 4) }, () => drawAccepted(draw, accept)));
    }
    return { text: Array.from({ length: rng.int(4, 6) }, () => drawAccepted(draw, accept).line).join("\n") };
  },
};
