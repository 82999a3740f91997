// Tiny programs in a Python-like and a JavaScript-like dress, with what they print.
// A program is a list of statements over integers; the same interpreter serves both dresses.
import type { Rng } from "../rng.ts";
import { chatRow, drawAccepted, type Domain, type Fact } from "./types.ts";
import { WORDS } from "./words.ts";

export type Dress = "python" | "javascript";

interface Program {
  readonly code: string;
  readonly output: string;
}

export const VARIABLES = ["a", "b", "c", "n", "x", "y"] as const;

type Draw = (rng: Rng, dress: Dress) => Program;

export const set = (dress: Dress, name: string, value: string): string =>
  dress === "python" ? `${name} = ${value}` : `let ${name} = ${value};`;
export const change = (dress: Dress, name: string, op: string, value: string): string =>
  `${name} ${op}= ${value}${dress === "python" ? "" : ";"}`;
export const show = (dress: Dress, value: string): string => (dress === "python" ? `print(${value})` : `console.log(${value});`);

export const TEMPLATES: readonly Draw[] = [
  // two assignments and an expression
  (rng, dress) => {
    const [x, y] = rng.sample(VARIABLES, 2) as [string, string];
    const [a, b] = [rng.int(1, 20), rng.int(1, 12)];
    const op = rng.pick(["+", "-", "*"] as const);
    const [p, q] = op === "*" ? [Math.min(a, 9), Math.min(b, 9)] : [Math.max(a, b), Math.min(a, b)];
    const value = op === "+" ? p + q : op === "-" ? p - q : p * q;
    return { code: [set(dress, x, `${p}`), set(dress, y, `${q}`), show(dress, `${x} ${op} ${y}`)].join("\n"), output: `${value}` };
  },
  // a counter that is changed in place
  (rng, dress) => {
    const x = rng.pick(VARIABLES);
    const [a, b, c] = [rng.int(1, 20), rng.int(1, 9), rng.int(1, 9)];
    return {
      code: [set(dress, x, `${a}`), change(dress, x, "+", `${b}`), change(dress, x, "+", `${c}`), show(dress, x)].join("\n"),
      output: `${a + b + c}`,
    };
  },
  // a loop that prints
  (rng, dress) => {
    const [n, step, offset] = [rng.int(2, 5), rng.int(1, 5), rng.int(0, 5)];
    const body = offset === 0 ? `i * ${step}` : `i * ${step} + ${offset}`;
    const code =
      dress === "python" ? `for i in range(${n}):\n    print(${body})` : `for (let i = 0; i < ${n}; i++) {\n  console.log(${body});\n}`;
    return { code, output: Array.from({ length: n }, (_, i) => `${i * step + offset}`).join("\n") };
  },
  // a branch
  (rng, dress) => {
    const x = rng.pick(VARIABLES);
    const [a, b] = [rng.int(0, 20), rng.int(0, 20)];
    const [yes, no] = rng.sample(WORDS, 2) as [string, string];
    const code =
      dress === "python"
        ? `${x} = ${a}\nif ${x} > ${b}:\n    print("${yes}")\nelse:\n    print("${no}")`
        : `let ${x} = ${a};\nif (${x} > ${b}) {\n  console.log("${yes}");\n} else {\n  console.log("${no}");\n}`;
    return { code, output: a > b ? yes : no };
  },
  // text: joining and length
  (rng, dress) => {
    const [x, y] = rng.sample(VARIABLES, 2) as [string, string];
    const [s, t] = rng.sample(WORDS, 2) as [string, string];
    if (rng.chance(0.5)) {
      return { code: [set(dress, x, `"${s}"`), set(dress, y, `"${t}"`), show(dress, `${x} + "-" + ${y}`)].join("\n"), output: `${s}-${t}` };
    }
    return {
      code: [set(dress, x, `"${s}"`), show(dress, dress === "python" ? `len(${x})` : `${x}.length`)].join("\n"),
      output: `${s.length}`,
    };
  },
  // a list: one item by index, or its length
  (rng, dress) => {
    const x = rng.pick(VARIABLES);
    const items = Array.from({ length: rng.int(3, 5) }, () => rng.int(0, 20));
    const index = rng.int(0, items.length - 1);
    if (rng.chance(0.7))
      return { code: [set(dress, x, `[${items.join(", ")}]`), show(dress, `${x}[${index}]`)].join("\n"), output: `${items[index]}` };
    return {
      code: [set(dress, x, `[${items.join(", ")}]`), show(dress, dress === "python" ? `len(${x})` : `${x}.length`)].join("\n"),
      output: `${items.length}`,
    };
  },
  // a function of one argument
  (rng, dress) => {
    const name = rng.pick(["f", "g", "h"] as const);
    const [factor, plus, arg] = [rng.int(2, 5), rng.int(1, 9), rng.int(1, 9)];
    const code =
      dress === "python"
        ? `def ${name}(n):\n    return n * ${factor} + ${plus}\nprint(${name}(${arg}))`
        : `function ${name}(n) {\n  return n * ${factor} + ${plus};\n}\nconsole.log(${name}(${arg}));`;
    return { code, output: `${arg * factor + plus}` };
  },
];

export const programs: Domain = {
  name: "programs",
  about: "small Python-like and JavaScript-like programs and what they print",
  make(rng, accept) {
    const draw = (): Fact & Program => {
      const program = rng.pick(TEMPLATES)(rng, rng.pick(["python", "javascript"] as const));
      return { ...program, key: program.code, question: `What does this print?\n${program.code}`, answer: program.output };
    };
    if (rng.chance(0.55)) return chatRow(Array.from({ length: rng.int(1, 2) }, () => drawAccepted(draw, accept)));
    const shown = Array.from({ length: 2 }, () => drawAccepted(draw, accept));
    return { text: shown.map(({ code, output }) => `${code}\n>>> ${output.replaceAll("\n", "\n>>> ")}`).join("\n") };
  },
};
