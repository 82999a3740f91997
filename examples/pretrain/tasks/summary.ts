// Adaptation: a story of a few sentences in one line. Pretraining tells stories and asks about single sentences; it never sums one up.
import type { Rng } from "../rng.ts";
import { ADJECTIVES, ANIMALS, article, MOODS, OBJECTS, PLACES, TIMES, WEATHER } from "../domains/prose_en.ts";
import { chatRow, drawAccepted, type Fact } from "../domains/types.ts";
import { capitalise, NAMES } from "../domains/words.ts";
import type { Task } from "./types.ts";

const GOING = ["walks", "runs", "goes"] as const;
const TAKING = ["finds", "carries", "repairs", "paints", "sells"] as const;

function drawStory(rng: Rng): Fact {
  const hero = rng.pick(NAMES);
  const [place, object, mood] = [rng.pick(PLACES), rng.pick(OBJECTS), rng.pick(MOODS)];
  const [going, taking] = [rng.pick(GOING), rng.pick(TAKING)];
  // What the summary keeps, in any order, with what it leaves out.
  const kept = [
    `${hero} ${going} to the ${rng.pick(ADJECTIVES)} ${place}.`,
    `${capitalise(rng.pick(TIMES))} ${hero} ${taking} ${article(`${rng.pick(ADJECTIVES)} ${object}`)}.`,
    `${rng.pick(WEATHER)}, but ${hero} is ${mood}.`,
  ];
  const friend = rng.pick(NAMES.filter((name) => name !== hero));
  const left = rng.pick([`${capitalise(article(rng.pick(ANIMALS)))} follows ${friend}.`, `${rng.pick(WEATHER)}.`]);
  const story = rng.shuffle([...kept, left]).join(" ");
  return { key: story, question: `Sum up: ${story}`, answer: `${hero}: ${going} to ${place}, ${taking} ${object}, is ${mood}` };
}

export const summary: Task = {
  name: "summary",
  kind: "adaptation",
  about: "a story of four sentences in one line",
  make: (rng, accept) => chatRow([drawAccepted(() => drawStory(rng), accept)]),
};
