// Enhancement of programs: as in pretraining, where each has one idea, and longer ones, where values go through several statements.
import type { Rng } from "../rng.ts";
import { change, set, show, TEMPLATES, VARIABLES, type Dress } from "../domains/programs.ts";
import { chatRow, drawAccepted, type Fact } from "../domains/types.ts";
import { WORDS } from "../domains/words.ts";
import type { Task } from "./types.ts";

interface Program {
  readonly code: readonly string[];
  readonly output: readonly (string | number)[];
}

type Draw = (rng: Rng, dress: Dress) => Program;

/** `for` over i from 0 to n − 1. */
const loop = (dress: Dress, n: number, body: readonly string[]): string[] =>
  dress === "python"
    ? [`for i in range(${n}):`, ...body.map((line) => `    ${line}`)]
    : [`for (let i = 0; i < ${n}; i++) {`, ...body.map((line) => `  ${line}`), "}"];

const branch = (dress: Dress, test: string, yes: string, no: string): string[] =>
  dress === "python" ? [`if ${test}:`, `    ${yes}`, "else:", `    ${no}`] : [`if (${test}) {`, `  ${yes}`, "} else {", `  ${no}`, "}"];

const DRAWS: readonly Draw[] = [
  // values that depend on each other
  (rng, dress) => {
    const [x, y] = rng.sample(VARIABLES, 2) as [string, string];
    const [a, b, c] = [rng.int(1, 20), rng.int(1, 9), rng.int(1, 9)];
    return {
      code: [set(dress, x, `${a}`), set(dress, y, `${x} + ${b}`), change(dress, x, "+", `${c}`), show(dress, x), show(dress, y)],
      output: [a + c, a + b],
    };
  },
  // a sum over a loop
  (rng, dress) => {
    const x = rng.pick(VARIABLES);
    const [a, n, b] = [rng.int(0, 12), rng.int(2, 4), rng.int(1, 9)];
    return { code: [set(dress, x, `${a}`), ...loop(dress, n, [change(dress, x, "+", `${b}`)]), show(dress, x)], output: [a + n * b] };
  },
  // a loop that prints a running value
  (rng, dress) => {
    const x = rng.pick(VARIABLES);
    const [a, n, b] = [rng.int(0, 12), rng.int(2, 4), rng.int(1, 5)];
    return {
      code: [set(dress, x, `${a}`), ...loop(dress, n, [change(dress, x, "+", `${b}`), show(dress, x)])],
      output: Array.from({ length: n }, (_, i) => a + (i + 1) * b),
    };
  },
  // a branch on a computed value
  (rng, dress) => {
    const [x, y] = rng.sample(VARIABLES, 2) as [string, string];
    const [a, b, c] = [rng.int(1, 20), rng.int(1, 9), rng.int(5, 25)];
    const [yes, no] = rng.sample(WORDS, 2) as [string, string];
    return {
      code: [
        set(dress, x, `${a}`),
        set(dress, y, `${x} + ${b}`),
        ...branch(dress, `${y} > ${c}`, show(dress, `"${yes}"`), show(dress, `"${no}"`)),
        show(dress, y),
      ],
      output: [a + b > c ? yes : no, a + b],
    };
  },
  // two items of a list
  (rng, dress) => {
    const [x, y] = rng.sample(VARIABLES, 2) as [string, string];
    const items = Array.from({ length: rng.int(3, 4) }, () => rng.int(0, 20));
    const [i, j] = rng.sample(
      items.map((_, k) => k),
      2,
    ) as [number, number];
    return {
      code: [set(dress, x, `[${items.join(", ")}]`), set(dress, y, `${x}[${i}]`), show(dress, y), show(dress, `${y} + ${x}[${j}]`)],
      output: [items[i]!, items[i]! + items[j]!],
    };
  },
  // a function that is called twice
  (rng, dress) => {
    const name = rng.pick(["f", "g", "h"] as const);
    const [factor, plus, a, b] = [rng.int(2, 5), rng.int(1, 9), rng.int(1, 9), rng.int(1, 9)];
    const define =
      dress === "python"
        ? [`def ${name}(n):`, `    return n * ${factor} + ${plus}`]
        : [`function ${name}(n) {`, `  return n * ${factor} + ${plus};`, "}"];
    return {
      code: [...define, show(dress, `${name}(${a})`), show(dress, `${name}(${b})`)],
      output: [a * factor + plus, b * factor + plus],
    };
  },
];

export const code: Task = {
  name: "code",
  kind: "enhancement",
  splitAs: "programs",
  about: "programs and what they print, half of them longer",
  make(rng, accept) {
    const draw = (): Fact => {
      const dress = rng.pick(["python", "javascript"] as const);
      if (rng.chance(0.5)) {
        const { code: text, output } = rng.pick(TEMPLATES)(rng, dress);
        return { key: text, question: `What does this print?\n${text}`, answer: output };
      }
      const program = rng.pick(DRAWS)(rng, dress);
      const text = program.code.join("\n");
      return { key: text, question: `What does this print?\n${text}`, answer: program.output.join("\n") };
    };
    return chatRow([drawAccepted(draw, accept)]);
  },
};
