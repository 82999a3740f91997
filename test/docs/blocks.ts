// The code blocks of a Markdown page: what language they are in, and what the HTML comment before each says of it.
//
//   <!-- not run: REASON -->   a shell block that only has its flags checked
//   <!-- types only: REASON -->  a TypeScript block that is type-checked and not run
//   <!-- fails -->             the block ends in an error; the text block after it is what it says
//   <!-- file: NAME -->        the block is this file, which commands of the page use
//   <!-- events -->            lines of events.jsonl
//
// A text block is what the block before it prints, in whole lines; … stands for anything.

export interface Block {
  readonly page: string;
  /** Of the fence, from 1. */
  readonly line: number;
  readonly language: string;
  readonly text: string;
  /** Kind and what follows its colon. */
  readonly mark: { readonly kind: string; readonly text: string } | null;
}

const MARKS = ["not run", "types only", "fails", "file", "events"];

/** @throws Error a block without a language, or a comment before one that nothing understands */
export function blocksOf(page: string, markdown: string): Block[] {
  const lines = markdown.split("\n");
  const blocks: Block[] = [];
  for (let i = 0; i < lines.length; i++) {
    const fence = /^(\s*)```(\S*)\s*$/.exec(lines[i]!);
    if (fence === null) continue;
    const [, indent = "", language = ""] = fence;
    const begin = i;
    while (++i < lines.length && lines[i]!.trimEnd() !== `${indent}\`\`\``);
    if (language === "") throw new Error(`${page}:${begin + 1}: expected the language of the block after its fence, found none`);
    const said = /^<!-- ([^:]+?)(?:: (.*))? -->$/.exec((lines[begin - 1] ?? "").trim() || (lines[begin - 2] ?? "").trim());
    const mark = said === null ? null : { kind: said[1]!, text: said[2] ?? "" };
    if (mark !== null && !MARKS.includes(mark.kind)) throw new Error(`${page}:${begin}: expected ${MARKS.join(", ")}, found ${mark.kind}`);
    const text = lines.slice(begin + 1, i).map((line) => line.slice(indent.length)).join("\n"); // prettier-ignore
    blocks.push({ page, line: begin + 1, language, text, mark });
  }
  return blocks;
}

/** The commands of a shell block: comments gone, continued lines joined. */
export function commandsOf(text: string): string[] {
  return text
    .replaceAll(/\\\n\s*/g, "")
    .split("\n")
    .map((line) => line.replace(/(^|\s)#\s.*$/, "").trim())
    .filter((line) => line !== "");
}

/** Words of a command with quotes and variables resolved. @throws Error a variable without a value, an open quote */
export function wordsOf(command: string, variables: ReadonlyMap<string, string>): string[] {
  const words: string[] = [];
  for (const [raw] of command.matchAll(/(?:'[^']*'|"[^"]*"|[^\s'"])+/g))
    words.push(
      raw.replaceAll(/'([^']*)'|"([^"]*)"|\$(\w+)/g, (whole, single: string | undefined, double: string | undefined, name: string) => {
        if (single !== undefined) return single;
        if (double !== undefined) return double;
        const value = variables.get(name);
        if (value === undefined) throw new Error(`${command}: ${whole} has no value on this page`);
        return value;
      }),
    );
  return words;
}

/** What is printed has these lines; … stands for anything. */
export function saysLines(printed: string, wanted: string): boolean {
  const escape = (s: string): string => s.replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&");
  const flat = (s: string): string => s.replaceAll(/\s+/g, " ");
  return wanted.split("\n").every((line) => new RegExp(flat(line).trim().split("…").map(escape).join(".*")).test(flat(printed))); // prettier-ignore
}

const WHOLE = /^\d[\d_]*$/;
const fewer = (n: number): number => Math.min(6, Math.max(2, Math.ceil(n / 30)));
/** Numbers that decide how long a block takes, made small. What is asked for absurdly much of stays: it is to be refused. */
const SMALLER: Readonly<Record<string, (n: number) => number>> = {
  steps: fewer,
  tokens: (n) => Math.ceil(n / 30),
  saveEvery: fewer,
  evalEvery: fewer,
  sampleEvery: fewer,
  driftEvery: fewer,
  guardEvery: fewer,
  every: fewer,
  rowsPerStep: (n) => (n > 1000 ? n : Math.min(n, 2)),
  maxTokens: (n) => Math.min(n, 4),
  maxLength: (n) => Math.min(n, 256),
};
const camel = (flag: string): string => flag.replace(/^--/, "").replaceAll(/-(\w)/g, (_, c: string) => c.toUpperCase());

export function smallFlags(words: readonly string[]): string[] {
  const small = words.map((word, i) => {
    const by = SMALLER[camel(words[i - 1] ?? "")];
    return by && words[i - 1]!.startsWith("--") && WHOLE.test(word) ? String(by(Number(word.replaceAll("_", "")))) : word;
  });
  if (words[0] !== "train" || !words.includes("--model")) return small;
  const without = (flag: string): boolean => !words.includes(`--${flag}`);
  return [
    ...small,
    ...(without("rows-per-step") ? ["--rows-per-step", "2"] : []),
    ...(without("steps") ? ["--steps", "2"] : []),
    ...(without("max-length") ? ["--max-length", "256"] : []),
  ];
}

/** The same in TypeScript and YAML: `steps: 500`. */
export function smallKeys(text: string): string {
  const small = text.replaceAll(/\b(\w+): (\d[\d_]*)\b(?!\.)/g, (whole, key: string, n: string) =>
    SMALLER[key] ? `${key}: ${SMALLER[key](Number(n.replaceAll("_", "")))}` : whole,
  );
  return small.includes("rowsPerStep") ? small : small.replace(/\bsteps: \d+(?=,)/, "$&, rowsPerStep: 2");
}
