// Enhancement of arithmetic: sums alone, in the words of pretraining, and half of them with larger numbers than it saw.
import type { Rng } from "../rng.ts";
import { chatRow, drawAccepted, type Fact } from "../domains/types.ts";
import { NAMES, THINGS } from "../domains/words.ts";
import type { Task } from "./types.ts";

type Operation = "+" | "-" | "*";

/** Pretraining adds and subtracts up to 60 and 40, and multiplies up to 12. */
function drawOperands(rng: Rng): readonly [a: number, op: Operation, b: number, value: number] {
  const op = rng.pick(["+", "-", "*"] as const);
  if (op === "*") {
    const [a, b] = rng.shuffle([rng.int(2, 19), rng.int(2, 9)]) as [number, number];
    return [a, op, b, a * b];
  }
  const a = rng.int(10, 99);
  const b = rng.int(1, Math.min(a, 60));
  return [a, op, b, op === "+" ? a + b : a - b];
}

function drawSum(rng: Rng): Fact {
  const [a, op, b, value] = drawOperands(rng);
  const symbols = `${a} ${op} ${b}`;
  const words = `${a} ${{ "+": "plus", "-": "minus", "*": "times" }[op]} ${b}`;
  const question = rng.pick([`What is ${symbols}?`, `Calculate ${symbols}.`, `${symbols} = ?`, `What is ${words}?`]);
  return { key: `${a}${op}${b}`, question, answer: `${value}` };
}

function drawStory(rng: Rng): Fact {
  const name = rng.pick(NAMES);
  const [, things] = rng.pick(THINGS);
  const [a, op, b, value] = drawOperands(rng);
  const given =
    op === "+"
      ? `${name} has ${a} ${things}. ${name} gets ${b} more.`
      : op === "-"
        ? `${name} has ${a} ${things}. ${name} gives ${b} away.`
        : `${name} has ${a} bags. Each bag holds ${b} ${things}.`;
  return { key: `${a}${op}${b}`, question: `${given} How many ${things} are there now?`, answer: `${value}` };
}

export const sums: Task = {
  name: "sums",
  kind: "enhancement",
  splitAs: "arithmetic",
  about: "sums, of larger numbers too",
  make: (rng, accept) => chatRow([drawAccepted(() => (rng.chance(0.65) ? drawSum(rng) : drawStory(rng)), accept)]),
};
