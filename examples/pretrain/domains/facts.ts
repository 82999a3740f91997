// Questions about a small invented world whose facts are fixed: they can be learned by heart and nowhere else.
// The split is over (fact, wording): every fact is seen in training, some ways to ask for it only in evaluation.
import { Rng } from "../rng.ts";
import { chatRow, drawAccepted, type Domain, type Fact } from "./types.ts";

const TOWNS = [
  "Arlen",
  "Brisk",
  "Calder",
  "Dunmor",
  "Elmet",
  "Farrow",
  "Gildon",
  "Harth",
  "Iskra",
  "Jorvel",
  "Kessel",
  "Lorn",
  "Morva",
  "Nessa",
  "Orlan",
  "Pellin",
  "Quarl",
  "Rushen",
  "Sorrel",
  "Tamsin",
] as const;
const RIVERS = ["Aven", "Blyde", "Cairn", "Drava", "Esk"] as const;
const LORDS = ["Queen Oda", "King Ruben", "Duke Ansel", "Lady Mirel", "Count Bertil", "Lady Sunniva", "Duke Folke"] as const;
const GOODS = ["glass", "wool", "cheese", "silver", "honey", "paper", "rope", "salt"] as const;
const ANIMALS = ["heron", "badger", "stag", "otter", "raven", "boar"] as const;

interface Town {
  readonly name: string;
  readonly river: string;
  readonly lord: string;
  readonly good: string;
  readonly animal: string;
  readonly houses: number;
}

/** The world itself: one draw with a fixed seed. */
export const WORLD: readonly Town[] = (() => {
  const rng = new Rng("invented world 1");
  return TOWNS.map((name) => ({
    name,
    river: rng.pick(RIVERS),
    lord: rng.pick(LORDS),
    good: rng.pick(GOODS),
    animal: rng.pick(ANIMALS),
    houses: rng.int(2, 9) * 100,
  }));
})();

interface Ask {
  readonly about: Exclude<keyof Town, "name">;
  readonly questions: readonly ((town: string) => string)[];
  readonly statement: (town: Town) => string;
}

const ASKS: readonly Ask[] = [
  {
    about: "river",
    questions: [(t) => `Which river runs through ${t}?`, (t) => `On which river does ${t} lie?`, (t) => `Name the river of ${t}.`],
    statement: (t) => `${t.name} lies on the river ${t.river}.`,
  },
  {
    about: "lord",
    questions: [(t) => `Who rules ${t}?`, (t) => `Who is the lord of ${t}?`, (t) => `Name the ruler of ${t}.`],
    statement: (t) => `${t.lord} rules ${t.name}.`,
  },
  {
    about: "good",
    questions: [(t) => `What does ${t} sell?`, (t) => `What is made in ${t}?`, (t) => `Name the trade of ${t}.`],
    statement: (t) => `The people of ${t.name} make and sell ${t.good}.`,
  },
  {
    about: "animal",
    questions: [
      (t) => `Which animal is on the flag of ${t}?`,
      (t) => `What does the flag of ${t} show?`,
      (t) => `Name the flag animal of ${t}.`,
    ],
    statement: (t) => `The flag of ${t.name} shows ${/^[aeiou]/.test(t.animal) ? "an" : "a"} ${t.animal}.`,
  },
  {
    about: "houses",
    questions: [(t) => `How many houses has ${t}?`, (t) => `How big is ${t}?`, (t) => `Name the number of houses in ${t}.`],
    statement: (t) => `${t.name} has ${t.houses} houses.`,
  },
];

export const facts: Domain = {
  name: "facts",
  about: "an invented world of twenty towns: statements and questions",
  make(rng, accept) {
    const draw = (): Fact => {
      const town = rng.pick(WORLD);
      const ask = rng.pick(ASKS);
      const question = rng.pick(ask.questions)(town.name);
      return { key: question, question, answer: `${town[ask.about]}` };
    };
    if (rng.chance(0.6)) return chatRow(Array.from({ length: rng.int(2, 4) }, () => drawAccepted(draw, accept)));
    // Statements are the world, not a question about it: the split is over their order.
    const describe = (): { key: string } => {
      const town = rng.pick(WORLD);
      return {
        key: rng
          .sample(ASKS, rng.int(3, 5))
          .map((ask) => ask.statement(town))
          .join(" "),
      };
    };
    const paragraphs = Array.from({ length: rng.int(1, 2) }, () => drawAccepted(describe, accept).key);
    return { text: paragraphs.join("\n") };
  },
};
