// A glossary: what kind of word a word is, which word does not fit, words in quotes and as keys of JSON, and short sentences of everyday.
// It sees to it that every word that tasks are made of was met in pretraining, in the spellings that tasks need (token_check.ts).
import type { Rng } from "../rng.ts";
import { ADJECTIVES, ANIMALS, MOODS, OBJECTS, PLACES } from "./prose_en.ts";
import { chatRow, drawAccepted, type Domain, type Fact } from "./types.ts";
import { capitalise, CITIES, COLOURS, JOBS, MONTHS, NAMES, NUMBER_WORDS, WEEKDAYS } from "./words.ts";

/** Kinds of words; a word stands in one kind only. */
export const KINDS: Readonly<Record<string, readonly string[]>> = {
  place: [...PLACES, "hall", "office", "studio", "lobby", "attic", "shop", "house", "room", "desk", "road"],
  animal: [...ANIMALS, "dog", "horse", "rabbit", "goat", "wolf", "bird", "fish"],
  thing: [...OBJECTS, "lamp", "door", "key", "thing", "seat", "ticket"],
  food: ["bread", "milk", "soup", "cheese", "honey", "salt", "cake", "corn", "meal", "food"],
  colour: COLOURS,
  mood: MOODS,
  job: JOBS,
  city: CITIES,
  month: MONTHS,
  day: WEEKDAYS,
  number: NUMBER_WORDS,
  name: NAMES,
  vehicle: ["train", "plane", "bus", "ferry"],
  way: ["rail", "air", "sea"],
  deed: ["buy", "cancel", "ask", "clean", "warm", "feed", "find", "repair", "paint", "call", "sort", "reverse", "join", "double", "count"],
  time: ["now", "later", "today", "soon", "noon", "evening", "winter"],
};

const KEYS = ["action", "mode", "from", "to", "seats", "date", "about", "state", "kind", "place"] as const;

/** Sentences whose words need no kind. `[]` is a place, `{}` a thing. */
const SENTENCES = [
  "The travel desk is in the [].",
  "I would like to see the [], please.",
  "I no longer need the {}.",
  "Drop the {} on the desk.",
  "Does the {} still work?",
  "Are two seats free in the []?",
  "We leave the [] and take the {}.",
  "On Monday we get the {} from the [].",
  "There is dust on the {}.",
  "We have no {} in the [].",
  "Can you talk to the people in the []?",
  "I want to come to the [] before noon.",
  "Say it in another tongue: the {} is in the [].",
  "The other {} is not in the house.",
  "Sum up the story of the {}.",
  "Give me the {}, and I give you a meal.",
  "Please call me in two weeks about the {}.",
  "First sort, then join: the {} and the {}.",
  "Look for the {}, then count it.",
] as const;

const KIND_NAMES = Object.keys(KINDS);
const aWord = (kind: string): string => `${/^[aeiou]/.test(kind) ? "an" : "a"} ${kind}`;

type Draw = (rng: Rng) => Fact & { readonly line: string };

const DRAWS: readonly Draw[] = [
  (rng) => {
    const kind = rng.pick(KIND_NAMES);
    const word = rng.pick(KINDS[kind]!);
    const question = rng.pick([`What kind of word is ${word}?`, `The word ${word} is for what?`, `Kind of "${word}"?`]);
    return { key: `kind ${word} ${question}`, question, answer: capitalise(`${aWord(kind)}.`), line: `${word} | ${kind}` };
  },
  (rng) => {
    const [kind, other] = rng.sample(KIND_NAMES, 2) as [string, string];
    const [fits, odd] = [rng.sample(KINDS[kind]!, 3), rng.pick(KINDS[other]!)];
    const list = rng.shuffle([...fits, odd]).join(", ");
    return { key: list, question: `Which word does not fit: ${list}?`, answer: odd, line: `Not like the others in ${list}: ${odd}` };
  },
  (rng) => {
    const words = Array.from({ length: rng.int(1, 3) }, () => rng.pick(KINDS[rng.pick(KIND_NAMES)]!));
    const quoted = words.map((word) => JSON.stringify(word)).join(", ");
    return { key: `quote ${quoted}`, question: `Put in quotes: ${words.join(" ")}`, answer: quoted, line: `${words.join(" ")}: ${quoted}` };
  },
  (rng) => {
    const [key, kind] = [rng.pick(KEYS), rng.pick(KIND_NAMES)];
    const word = rng.chance(0.4) ? rng.int(1, 30) : rng.pick(KINDS[kind]!);
    const json = `{"${key}": ${JSON.stringify(word)}}`;
    return { key: json, question: `Write as JSON: ${key} is ${word}.`, answer: json, line: `${key} is ${word}: ${json}` };
  },
  (rng) => {
    const [deed, kind] = [rng.pick(KINDS["deed"]!), rng.pick(["room", "thing", "animal", "person", "food"])];
    const label = `${deed}_${kind}`;
    const n = rng.int(2, 90);
    return {
      key: `label ${label} ${n}`,
      question: `Label number ${n}: ${deed} ${kind}`,
      answer: `${label} | ${n}`,
      line: `${deed} ${kind} ${n} | ${label}`,
    };
  },
  (rng) => {
    const text = rng
      .pick(SENTENCES)
      .replace(/\[\]|\{\}/g, (hole) => `${rng.pick(ADJECTIVES)} ${rng.pick(hole === "[]" ? PLACES : OBJECTS)}`);
    const words = text.split(" ").length;
    return { key: text, question: `How many words are there? ${text}`, answer: `${words}`, line: text };
  },
];

export const glossary: Domain = {
  name: "glossary",
  about: "kinds of words, the word that does not fit, words in quotes and as keys",
  make(rng, accept) {
    const draw = (): ReturnType<Draw> => rng.pick(DRAWS)(rng);
    if (rng.chance(0.55)) return chatRow(Array.from({ length: rng.int(2, 4) }, () => drawAccepted(draw, accept)));
    return { text: Array.from({ length: rng.int(4, 6) }, () => drawAccepted(draw, accept).line).join("\n") };
  },
};
