// Boolean expressions, comparisons and one-step inferences.
import type { Rng } from "../rng.ts";
import { chatRow, drawAccepted, type Domain, type Fact } from "./types.ts";
import { NAMES } from "./words.ts";

interface Expression {
  readonly text: string;
  readonly value: boolean;
}

/** Random tree of and, or, not with brackets around every inner operation. */
function expression(rng: Rng, depth: number, outer = true): Expression {
  if (depth === 0) {
    const value = rng.chance(0.5);
    return rng.chance(0.25) ? { text: `not ${value}`, value: !value } : { text: `${value}`, value };
  }
  const [left, right] = [expression(rng, rng.int(0, depth - 1), false), expression(rng, rng.int(0, depth - 1), false)];
  const and = rng.chance(0.5);
  const text = `${left.text} ${and ? "and" : "or"} ${right.text}`;
  return { text: outer ? text : `(${text})`, value: and ? left.value && right.value : left.value || right.value };
}

type Draw = (rng: Rng) => Fact & { readonly line: string };

const DRAWS: readonly Draw[] = [
  (rng) => {
    const { text, value } = expression(rng, rng.int(1, 2));
    return { key: text, question: rng.pick([`Evaluate: ${text}`, `${text} = ?`]), answer: `${value}`, line: `${text} = ${value}` };
  },
  (rng) => {
    const [a, b] = [rng.int(0, 50), rng.int(0, 50)];
    const op = rng.pick(["<", ">", "=="] as const);
    const other = op === "==" && rng.chance(0.5) ? a : b;
    const value = op === "<" ? a < other : op === ">" ? a > other : a === other;
    const text = `${a} ${op} ${other}`;
    return { key: text, question: `True or false: ${text}`, answer: `${value}`, line: `${text} is ${value}` };
  },
  (rng) => {
    const [x, y, z] = rng.sample(NAMES, 3) as [string, string, string];
    const [more, less] = rng.pick([
      ["taller", "shorter"],
      ["older", "younger"],
      ["faster", "slower"],
    ] as const);
    const given = `${x} is ${more} than ${y}. ${y} is ${more} than ${z}.`;
    const [who, answer] = rng.chance(0.5) ? ([more, x] as const) : ([less, z] as const);
    const superlative = `${who.slice(0, -2)}est`;
    return {
      key: `${given} ${who}`,
      question: `${given} Who is the ${superlative}?`,
      answer,
      line: `${given} So ${answer} is the ${superlative}.`,
    };
  },
  (rng) => {
    const n = rng.int(0, 99);
    const even = rng.chance(0.5);
    const value = (n % 2 === 0) === even;
    const text = `${n} is ${even ? "even" : "odd"}`;
    return { key: text, question: `True or false: ${text}`, answer: `${value}`, line: `${text}: ${value}` };
  },
];

export const logic: Domain = {
  name: "logic",
  about: "boolean expressions, comparisons and orderings",
  make(rng, accept) {
    const draw = (): ReturnType<Draw> => rng.pick(DRAWS)(rng);
    if (rng.chance(0.55)) return chatRow(Array.from({ length: rng.int(2, 4) }, () => drawAccepted(draw, accept)));
    return { text: Array.from({ length: rng.int(4, 6) }, () => drawAccepted(draw, accept).line).join("\n") };
  },
};
