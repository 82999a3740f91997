// Small sums: addition, subtraction and multiplication in symbols and in words.
import type { Rng } from "../rng.ts";
import { chatRow, drawAccepted, type Domain, type Fact } from "./types.ts";
import { NAMES, NUMBER_WORDS, THINGS } from "./words.ts";

interface Sum extends Fact {
  /** The fact as one line of a plain document. */
  readonly line: string;
}

function drawSum(rng: Rng): Sum {
  const operation = rng.pick(["+", "-", "*"] as const);
  let a = operation === "*" ? rng.int(2, 12) : rng.int(1, 60);
  let b = operation === "*" ? rng.int(2, 12) : rng.int(1, 40);
  if (operation === "-" && b > a) [a, b] = [b, a];
  const value = operation === "+" ? a + b : operation === "-" ? a - b : a * b;
  const key = `${a}${operation}${b}`;
  const symbols = `${a} ${operation} ${b}`;
  const words = `${a} ${{ "+": "plus", "-": "minus", "*": "times" }[operation]} ${b}`;
  const question = rng.pick([`What is ${symbols}?`, `Calculate ${symbols}.`, `${symbols} = ?`, `What is ${words}?`]);
  return { key, question, answer: `${value}`, line: rng.chance(0.7) ? `${symbols} = ${value}` : `${words} is ${value}` };
}

/** The same operations inside a two-sentence story. */
function drawStory(rng: Rng): Sum {
  const name = rng.pick(NAMES);
  const [, things] = rng.pick(THINGS);
  const kind = rng.pick(["more", "less", "bags"] as const);
  const a = kind === "bags" ? rng.int(2, 9) : rng.int(5, 40);
  const b = kind === "bags" ? rng.int(2, 9) : rng.int(2, Math.min(a, 20));
  const value = kind === "more" ? a + b : kind === "less" ? a - b : a * b;
  const given =
    kind === "more"
      ? `${name} has ${a} ${things}. ${name} gets ${b} more.`
      : kind === "less"
        ? `${name} has ${a} ${things}. ${name} gives ${b} away.`
        : `${name} has ${a} bags. Each bag holds ${b} ${things}.`;
  const closing = kind === "bags" ? `In all there are ${value} ${things}.` : `Now ${name} has ${value} ${things}.`;
  return {
    key: `${a}${{ more: "+", less: "-", bags: "*" }[kind]}${b}`,
    question: `${given} How many ${things} are there now?`,
    answer: `${value}`,
    line: `${given} ${closing}`,
  };
}

/** Digits in words: the number words of a clock face. */
function drawWords(rng: Rng): Sum {
  const a = rng.int(0, 12);
  const b = rng.int(0, 12 - a);
  const plus = rng.chance(0.5);
  const [x, y, z] = plus ? [a, b, a + b] : [a + b, b, a];
  const text = `${NUMBER_WORDS[x]} ${plus ? "plus" : "minus"} ${NUMBER_WORDS[y]}`;
  return {
    key: `words ${x}${plus ? "+" : "-"}${y}`,
    question: `What is ${text}?`,
    answer: `${NUMBER_WORDS[z]}`,
    line: `${text} is ${NUMBER_WORDS[z]}`,
  };
}

export const arithmetic: Domain = {
  name: "arithmetic",
  about: "addition, subtraction and multiplication, in symbols and in words",
  make(rng, accept) {
    const draw = (): Sum => {
      const kind = rng.float();
      return kind < 0.6 ? drawSum(rng) : kind < 0.85 ? drawStory(rng) : drawWords(rng);
    };
    if (rng.chance(0.5)) {
      return chatRow(Array.from({ length: rng.int(2, 4) }, () => drawAccepted(draw, accept)));
    }
    const lines = Array.from({ length: rng.int(4, 7) }, () => drawAccepted(draw, accept).line);
    return { text: lines.join("\n") };
  },
};
