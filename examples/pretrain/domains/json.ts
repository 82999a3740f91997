// A sentence or two of English into one JSON record: people, goods, pets, books.
import type { Rng } from "../rng.ts";
import { chatRow, drawAccepted, type Domain, type Fact } from "./types.ts";
import { CITIES, COLOURS, JOBS, NAMES, THINGS } from "./words.ts";

const PETS = ["cat", "dog", "horse", "rabbit", "parrot", "goat"] as const;
const SUBJECTS = ["rivers", "stars", "bread", "ships", "gardens", "birds", "trains", "music"] as const;

type Schema = (rng: Rng) => { readonly text: string; readonly record: Readonly<Record<string, string | number | boolean>> };

export const SCHEMAS: Readonly<Record<string, Schema>> = {
  person(rng) {
    const [name, age, job, city] = [rng.pick(NAMES), rng.int(18, 79), rng.pick(JOBS), rng.pick(CITIES)];
    const text = rng.pick([
      `${name} is ${age} years old, works as a ${job} and lives in ${city}.`,
      `The ${job} ${name} from ${city} is ${age}.`,
      `In ${city} lives ${name}, a ${job} of ${age} years.`,
    ]);
    return { text, record: { name, age, job, city } };
  },
  goods(rng) {
    const [[item, items], colour, count, price] = [rng.pick(THINGS), rng.pick(COLOURS), rng.int(2, 30), rng.int(2, 20)];
    const text = rng.pick([
      `The shop has ${count} ${colour} ${items}. One costs ${price} euros.`,
      `For ${price} euros you get one ${colour} ${item}; ${count} are left.`,
      `${count} ${colour} ${items} are on the shelf at ${price} euros each.`,
    ]);
    return { text, record: { item, colour, count, price } };
  },
  pet(rng) {
    const [owner, pet, name, young] = [rng.pick(NAMES), rng.pick(PETS), rng.pick(NAMES), rng.chance(0.5)];
    const text = rng.pick([
      `${owner} has a ${young ? "young" : "old"} ${pet} called ${name}.`,
      `The ${young ? "young" : "old"} ${pet} ${name} belongs to ${owner}.`,
    ]);
    return { text, record: { pet, name, owner, young } };
  },
  book(rng) {
    const [author, subject, pages, year] = [rng.pick(NAMES), rng.pick(SUBJECTS), rng.int(5, 40) * 10, rng.int(1980, 2024)];
    const text = rng.pick([
      `In ${year} ${author} wrote a book about ${subject}. It has ${pages} pages.`,
      `The book about ${subject} by ${author} is from ${year} and has ${pages} pages.`,
    ]);
    return { text, record: { author, subject, pages, year } };
  },
};

const KINDS = Object.keys(SCHEMAS);

/** JSON with a space after colons and commas, as people and Python write it. */
export function spacedJson(record: Readonly<Record<string, string | number | boolean>>): string {
  const fields = Object.entries(record).map(([key, value]) => `${JSON.stringify(key)}: ${JSON.stringify(value)}`);
  return `{${fields.join(", ")}}`;
}

export const json: Domain = {
  name: "json",
  about: "an English sentence into a flat JSON record",
  make(rng, accept) {
    const draw = (): Fact & { readonly text: string } => {
      const kind = rng.pick(KINDS);
      const { text, record } = (SCHEMAS[kind] as Schema)(rng);
      const answer = spacedJson(record);
      const question = rng.pick([`Write as JSON: ${text}`, `Extract the ${kind} as JSON. ${text}`, `${text}\nJSON:`]);
      return { key: answer, question, answer, text };
    };
    if (rng.chance(0.6)) return chatRow(Array.from({ length: rng.int(1, 2) }, () => drawAccepted(draw, accept)));
    const facts = Array.from({ length: 2 }, () => drawAccepted(draw, accept));
    return { text: facts.map((fact) => `${fact.text}\n${fact.answer}`).join("\n") };
  },
};
