// Short German stories with declined articles and adjectives, and phrases translated from English.
import type { Rng } from "../rng.ts";
import { chatRow, drawAccepted, type Domain, type Fact } from "./types.ts";
import { capitalise, NAMES } from "./words.ts";

type Gender = "m" | "f" | "n";
type Case = "nom" | "acc" | "dat";
interface Noun {
  readonly de: string;
  readonly en: string;
  readonly gender: Gender;
}

const noun = (de: string, en: string, gender: Gender): Noun => ({ de, en, gender });

// No n-declension nouns, so the singular never changes in these three cases.
const BEINGS = [
  noun("Hund", "dog", "m"),
  noun("Vogel", "bird", "m"),
  noun("Mann", "man", "m"),
  noun("Bruder", "brother", "m"),
  noun("Katze", "cat", "f"),
  noun("Frau", "woman", "f"),
  noun("Tochter", "daughter", "f"),
  noun("Maus", "mouse", "f"),
  noun("Kind", "child", "n"),
  noun("Pferd", "horse", "n"),
  noun("Schaf", "sheep", "n"),
] as const;
const THINGS = [
  noun("Tisch", "table", "m"),
  noun("Apfel", "apple", "m"),
  noun("Brief", "letter", "m"),
  noun("Schlüssel", "key", "m"),
  noun("Lampe", "lamp", "f"),
  noun("Tasche", "bag", "f"),
  noun("Uhr", "clock", "f"),
  noun("Blume", "flower", "f"),
  noun("Buch", "book", "n"),
  noun("Brot", "bread", "n"),
  noun("Messer", "knife", "n"),
  noun("Bild", "picture", "n"),
] as const;
const PLACES = [
  noun("Garten", "garden", "m"),
  noun("Wald", "forest", "m"),
  noun("Küche", "kitchen", "f"),
  noun("Stadt", "town", "f"),
  noun("Haus", "house", "n"),
  noun("Dorf", "village", "n"),
] as const;
type Adjective = readonly [de: string, en: string];
const LIVING: readonly Adjective[] = [
  ["klein", "small"],
  ["groß", "big"],
  ["alt", "old"],
  ["jung", "young"],
  ["müde", "tired"],
  ["leise", "quiet"],
  ["schlau", "clever"],
];
const LIFELESS: readonly Adjective[] = [
  ["klein", "small"],
  ["groß", "big"],
  ["alt", "old"],
  ["neu", "new"],
  ["schön", "beautiful"],
  ["rot", "red"],
  ["grün", "green"],
];
const VERBS = [
  ["sieht", "sees"],
  ["sucht", "looks for"],
  ["findet", "finds"],
  ["kauft", "buys"],
  ["bringt", "brings"],
  ["holt", "fetches"],
  ["zeichnet", "draws"],
] as const;
const TIMES = ["Am Morgen", "Am Abend", "Heute", "Gestern Abend", "Im Winter", "Jeden Tag", "Um acht Uhr", "Nach dem Essen"] as const;

const DEFINITE: Readonly<Record<Case, Readonly<Record<Gender, string>>>> = {
  nom: { m: "der", f: "die", n: "das" },
  acc: { m: "den", f: "die", n: "das" },
  dat: { m: "dem", f: "der", n: "dem" },
};
const INDEFINITE: Readonly<Record<Case, Readonly<Record<Gender, string>>>> = {
  nom: { m: "ein", f: "eine", n: "ein" },
  acc: { m: "einen", f: "eine", n: "ein" },
  dat: { m: "einem", f: "einer", n: "einem" },
};

/** Adjective ending: weak after the definite article, mixed after the indefinite one. */
function ending(definite: boolean, grammaticalCase: Case, gender: Gender): string {
  if (grammaticalCase === "dat" || (grammaticalCase === "acc" && gender === "m")) return "en";
  if (definite || gender === "f") return "e";
  return gender === "m" ? "er" : "es";
}

function decline(adjective: string, suffix: string): string {
  return adjective.endsWith("e") ? adjective.slice(0, -1) + suffix : adjective + suffix;
}

const isBeing = (nouns: readonly Noun[]): boolean => nouns === BEINGS;

interface Phrase {
  readonly de: string;
  readonly en: string;
}

function phrase(rng: Rng, nouns: readonly Noun[], grammaticalCase: Case): Phrase {
  const { de, en, gender } = rng.pick(nouns);
  const definite = rng.chance(0.6);
  const article = (definite ? DEFINITE : INDEFINITE)[grammaticalCase][gender];
  if (rng.chance(0.3)) return { de: `${article} ${de}`, en: `${definite ? "the" : /^[aeiou]/.test(en) ? "an" : "a"} ${en}` };
  const [adjective, english] = rng.pick(isBeing(nouns) ? LIVING : LIFELESS);
  return {
    de: `${article} ${decline(adjective, ending(definite, grammaticalCase, gender))} ${de}`,
    en: `${definite ? "the" : /^[aeiou]/.test(english) ? "an" : "a"} ${english} ${en}`,
  };
}

/** A main clause with its English. */
function clause(rng: Rng): Phrase {
  const [subject, [verb, english], object] = [phrase(rng, BEINGS, "nom"), rng.pick(VERBS), phrase(rng, THINGS, "acc")];
  return { de: `${capitalise(subject.de)} ${verb} ${object.de}.`, en: `${capitalise(subject.en)} ${english} ${object.en}.` };
}

function storySentence(rng: Rng): string {
  const kind = rng.int(0, 4);
  const name = rng.pick(NAMES);
  const [verb] = rng.pick(VERBS);
  if (kind === 0) return clause(rng).de;
  // The verb stays second: after an adverbial the subject follows it.
  if (kind === 1) return `${rng.pick(TIMES)} ${verb} ${phrase(rng, BEINGS, "nom").de} ${phrase(rng, THINGS, "acc").de}.`;
  if (kind === 2) return `${name} geht mit ${phrase(rng, BEINGS, "dat").de} in ${phrase(rng, PLACES, "acc").de}.`;
  if (kind === 3) return `In ${phrase(rng, PLACES, "dat").de} wohnt ${phrase(rng, BEINGS, "nom").de}.`;
  return `${name} gibt ${phrase(rng, BEINGS, "dat").de} ${phrase(rng, THINGS, "acc").de}.`;
}

export const proseDe: Domain = {
  name: "prose_de",
  about: "short German stories; English sentences and phrases put into German",
  make(rng, accept) {
    if (rng.chance(0.6)) {
      const sentences = Array.from({ length: rng.int(4, 6) }, () => drawAccepted(() => ({ key: storySentence(rng) }), accept).key);
      return { text: sentences.join(" ") };
    }
    const draw = (): Fact => {
      const { de, en } = rng.chance(0.5) ? clause(rng) : phrase(rng, rng.chance(0.5) ? BEINGS : THINGS, "nom");
      return { key: de, question: `${rng.pick(["Say in German:", "German for:"])} ${en}`, answer: de };
    };
    return chatRow(Array.from({ length: rng.int(1, 3) }, () => drawAccepted(draw, accept)));
  },
};
