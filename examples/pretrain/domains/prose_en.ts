// Short English stories from a grammar, and questions about one of their sentences.
import type { Rng } from "../rng.ts";
import { chatRow, drawAccepted, type Domain, type Fact } from "./types.ts";
import { capitalise, NAMES } from "./words.ts";

export const ADJECTIVES = [
  "old",
  "small",
  "quiet",
  "bright",
  "dusty",
  "warm",
  "cold",
  "narrow",
  "wide",
  "strange",
  "golden",
  "broken",
] as const;
export const PLACES = [
  "mill",
  "harbour",
  "garden",
  "bridge",
  "market",
  "tower",
  "forest",
  "library",
  "station",
  "kitchen",
  "cellar",
  "field",
  "island",
  "workshop",
] as const;
export const OBJECTS = [
  "letter",
  "lantern",
  "basket",
  "violin",
  "map",
  "blanket",
  "kettle",
  "mirror",
  "ladder",
  "drum",
  "hammer",
  "clock",
  "boat",
  "feather",
] as const;
export const ANIMALS = ["fox", "crow", "cat", "donkey", "hen", "hedgehog", "swan", "mouse"] as const;
export const TIMES = [
  "in the morning",
  "in the evening",
  "at noon",
  "at night",
  "after the rain",
  "before breakfast",
  "in winter",
  "in spring",
] as const;
export const MOODS = ["happy", "tired", "curious", "hungry", "afraid", "proud", "calm", "sad"] as const;
const GOING = ["walks", "runs", "goes", "hurries", "rides"] as const;
const TAKING = ["finds", "carries", "repairs", "paints", "sells", "hides", "cleans"] as const;
export const WEATHER = [
  "The wind blows over the hills",
  "Snow falls on the roofs",
  "The sun stands above the river",
  "Fog lies on the road",
  "The stars come out",
] as const;

export const article = (words: string): string => `${/^[aeiou]/.test(words) ? "an" : "a"} ${words}`;

interface Told {
  readonly sentence: string;
  readonly question: string;
  readonly answer: string;
}

const SENTENCES: readonly ((rng: Rng, hero: string) => Told)[] = [
  (rng, hero) => {
    const [verb, place] = [rng.pick(GOING), `to the ${rng.pick(ADJECTIVES)} ${rng.pick(PLACES)}`];
    return { sentence: `${hero} ${verb} ${place}.`, question: `Where does ${hero} go?`, answer: capitalise(`${place}.`) };
  },
  (rng, hero) => {
    const [verb, thing] = [rng.pick(TAKING), article(`${rng.pick(ADJECTIVES)} ${rng.pick(OBJECTS)}`)];
    const time = rng.pick(TIMES);
    return {
      sentence: `${capitalise(time)} ${hero} ${verb} ${thing}.`,
      question: `When does this happen to the ${thing.split(" ").at(-1)}?`,
      answer: `${capitalise(time)}.`,
    };
  },
  (rng, hero) => {
    const [verb, thing] = [rng.pick(TAKING), article(`${rng.pick(ADJECTIVES)} ${rng.pick(OBJECTS)}`)];
    const place = rng.pick(PLACES);
    return { sentence: `In the ${place} ${hero} ${verb} ${thing}.`, question: `What is in the ${place}?`, answer: capitalise(`${thing}.`) };
  },
  (rng, hero) => {
    const [animal, mood] = [rng.pick(ANIMALS), rng.pick(MOODS)];
    return {
      sentence: `${capitalise(article(animal))} follows ${hero}, and ${hero} is ${mood}.`,
      question: `Who follows ${hero}?`,
      answer: `${capitalise(article(animal))}.`,
    };
  },
  (rng, hero) => {
    const [friend, object] = [rng.pick(NAMES.filter((name) => name !== hero)), rng.pick(OBJECTS)];
    return { sentence: `${friend} gives the ${object} back to ${hero}.`, question: `Who gives the ${object} back?`, answer: `${friend}.` };
  },
  (rng, hero) => {
    const mood = rng.pick(MOODS);
    return { sentence: `${rng.pick(WEATHER)}, but ${hero} is ${mood}.`, question: `How is ${hero}?`, answer: capitalise(`${mood}.`) };
  },
];

export const proseEn: Domain = {
  name: "prose_en",
  about: "short English stories and questions about them",
  make(rng, accept) {
    const hero = rng.pick(NAMES);
    const told = Array.from({ length: rng.int(4, 7) }, () =>
      drawAccepted(() => {
        const one = rng.pick(SENTENCES)(rng, hero);
        return { ...one, key: one.sentence };
      }, accept),
    );
    const story = told.map((one) => one.sentence).join(" ");
    if (rng.chance(0.6)) return { text: story };
    // One sentence per question, so that the answer stands there once.
    const asked = told.slice(0, rng.int(1, 2));
    return chatRow(asked.map((one): Fact => ({ ...one, question: `${one.sentence} ${one.question}` })));
  },
};
