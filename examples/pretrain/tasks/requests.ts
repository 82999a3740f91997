// Adaptation: what people ask of a house, as a label that pretraining never saw, the place or thing that it is about, and whether at once.
// Pretraining's intents are others, in JSON and without anything beside them.
import type { Rng } from "../rng.ts";
import { chatRow, drawAccepted, type Fact } from "../domains/types.ts";
import { NAMES } from "../domains/words.ts";
import type { Task } from "./types.ts";

const ROOMS = ["hall", "office", "kitchen", "cellar", "garden", "library"] as const;
const ANIMALS = ["cat", "dog", "horse", "rabbit", "goat", "hen"] as const;
const FOOD = ["bread", "milk", "soup", "cheese", "honey", "salt"] as const;
const OBJECTS = ["clock", "mirror", "lamp", "ladder", "door", "drum"] as const;

type Ask = (rng: Rng) => readonly [about: string, said: readonly string[]];

/** A label over known words, what it is about, and ways to say it. */
export const REQUESTS: Readonly<Record<string, Ask>> = {
  clean_room: (rng) => {
    const room = rng.pick(ROOMS);
    return [room, [`there is dust in the ${room}`, `the ${room} is not clean`, `please clean the ${room}`]];
  },
  warm_room: (rng) => {
    const room = rng.pick(ROOMS);
    return [room, [`it is cold in the ${room}`, `make the ${room} warm`, `we are cold in the ${room}`]];
  },
  feed_animal: (rng) => {
    const animal = rng.pick(ANIMALS);
    return [animal, [`the ${animal} is hungry`, `give the ${animal} a meal`, `bring food to the ${animal}`]];
  },
  find_animal: (rng) => {
    const animal = rng.pick(ANIMALS);
    return [animal, [`where is the ${animal}`, `I am looking for the ${animal}`, `the ${animal} is not in the house`]];
  },
  buy_food: (rng) => {
    const food = rng.pick(FOOD);
    return [food, [`we have no ${food}`, `get ${food} from the shop`, `I need ${food} please`]];
  },
  repair_thing: (rng) => {
    const thing = rng.pick(OBJECTS);
    return [thing, [`the ${thing} is broken`, `can you repair the ${thing}`, `make my ${thing} new`]];
  },
  paint_thing: (rng) => {
    const thing = rng.pick(OBJECTS);
    return [thing, [`paint the ${thing} please`, `the ${thing} is grey and not white`, `I want the ${thing} in red`]];
  },
  call_person: (rng) => {
    const name = rng.pick(NAMES);
    return [name, [`I want to talk to ${name}`, `please call ${name}`, `ask ${name} to come`]];
  },
};

const LABELS = Object.keys(REQUESTS);
const NOW = [" now", " today", " before noon"] as const;
const LATER = ["", " in the evening", " in winter", " in two weeks"] as const;

function drawRequest(rng: Rng): Fact {
  const label = rng.pick(LABELS);
  const [about, said] = REQUESTS[label]!(rng);
  const urgent = rng.chance(0.5);
  const text = `${rng.pick(["", "", "hello, ", "good morning, "])}${rng.pick(said)},${rng.pick(urgent ? NOW : LATER)}`.replace(/,$/, "");
  return { key: text, question: `House: ${text}`, answer: `${label} | ${about} | ${urgent ? "now" : "later"}` };
}

export const requests: Task = {
  name: "requests",
  kind: "adaptation",
  about: "requests to a house as new labels with what they are about",
  make: (rng, accept) => chatRow([drawAccepted(() => drawRequest(rng), accept)]),
};
