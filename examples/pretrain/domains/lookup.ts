// Tables and key-value lists with questions: finding a value, finding a key, the largest value.
import type { Rng } from "../rng.ts";
import { chatRow, type Domain, type Fact } from "./types.ts";
import { CITIES, COLOURS, NAMES, WORDS } from "./words.ts";

const HEADS = ["rooms", "points", "seats", "pages", "boxes", "steps"] as const;

interface Table {
  readonly text: string;
  readonly asked: readonly Fact[];
}

/** `key: value` lines; values are all different, so both directions have one answer. */
function pairs(rng: Rng): Table {
  const n = rng.int(3, 5);
  const keys = rng.sample(rng.pick([NAMES, WORDS, CITIES]), n);
  const values = rng.chance(0.5)
    ? rng.sample(COLOURS, n)
    : rng.sample(
        Array.from({ length: 89 }, (_, i) => `${i + 10}`),
        n,
      );
  const text = keys.map((key, i) => `${key}: ${values[i]}`).join("\n");
  const asked = keys.flatMap((key, i): Fact[] => [
    { key: text, question: `Value of ${key}?`, answer: `${values[i]}` },
    { key: text, question: `Which key has ${values[i]}?`, answer: key },
  ]);
  return { text, asked };
}

/** A table with bars: one name column and two number columns, the numbers of a column all different. */
function table(rng: Rng): Table {
  const n = rng.int(2, 4);
  const rows = rng.sample(NAMES, n);
  const [left, right] = rng.sample(HEADS, 2) as [string, string];
  const range = Array.from({ length: 40 }, (_, i) => i + 1);
  const [a, b] = [rng.sample(range, n), rng.sample(range, n)];
  const lines = rows.map((name, i) => `| ${name} | ${a[i]} | ${b[i]} |`);
  const text = [`| name | ${left} | ${right} |`, ...lines].join("\n");
  const most = rows[a.indexOf(Math.max(...a))] as string;
  const asked: Fact[] = rows.flatMap((name, i): Fact[] => [
    { key: text, question: `How many ${left} has ${name}?`, answer: `${a[i]}` },
    { key: text, question: `How many ${right} has ${name}?`, answer: `${b[i]}` },
  ]);
  asked.push({ key: text, question: `Who has the most ${left}?`, answer: most });
  return { text, asked };
}

export const lookup: Domain = {
  name: "lookup",
  about: "key-value lists and tables with questions about their cells",
  make(rng, accept) {
    for (let i = 0; i < 1000; i++) {
      const drawn = rng.chance(0.6) ? pairs(rng) : table(rng);
      if (!accept(drawn.text)) continue;
      const asked = rng.sample(drawn.asked, Math.min(drawn.asked.length, rng.int(2, 4)));
      if (rng.chance(0.35)) return { text: `${drawn.text}\n${asked.map(({ question, answer }) => `${question} ${answer}`).join("\n")}` };
      // The table stands in the first turn only; later turns look back at it.
      return chatRow(asked.map((fact, turn) => (turn === 0 ? { ...fact, question: `${drawn.text}\n${fact.question}` } : fact)));
    }
    throw new RangeError("lookup: no acceptable table in 1000 draws");
  },
};
