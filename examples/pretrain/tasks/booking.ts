// Adaptation: travel requests into a booking record. Neither the requests nor the schema occur in pretraining, where JSON records
// describe people, goods, pets and books, and intents carry no slots; the words do.
import type { Rng } from "../rng.ts";
import { spacedJson } from "../domains/json.ts";
import { chatRow, drawAccepted, type Fact } from "../domains/types.ts";
import { CITIES, MONTHS, NUMBER_WORDS } from "../domains/words.ts";
import type { Task } from "./types.ts";

const MODES = { train: "rail", plane: "air", bus: "road", ferry: "sea" } as const;
const KINDS = Object.keys(MODES) as (keyof typeof MODES)[];

export interface Booking {
  readonly action: "buy" | "cancel" | "ask";
  readonly mode: string;
  readonly from: string;
  readonly to: string;
  readonly seats: number;
  readonly date: string;
}

function drawBooking(rng: Rng): Fact {
  const [from, to] = rng.sample(CITIES, 2) as [string, string];
  const kind = rng.pick(KINDS);
  const [seats, month, day] = [rng.int(1, 6), rng.int(1, 12), rng.int(1, 28)];
  const action = rng.pick(["buy", "buy", "cancel", "ask"] as const);
  const [n, noun, date] = [NUMBER_WORDS[seats], seats === 1 ? "seat" : "seats", `${day} ${MONTHS[month - 1]}`];
  const route = `from ${from} to ${to}`;
  const text = {
    buy: [
      `Please get me ${n} ${noun} on the ${kind} ${route} on ${date}.`,
      `On ${date} we leave ${from} for ${to}: ${n} ${noun} on the ${kind}.`,
      `I would like to take the ${kind} ${route}, ${date}, ${n} ${noun}.`,
    ],
    cancel: [`I no longer need the ${n} ${noun} on the ${kind} ${route} on ${date}.`, `Drop my ${kind} ${route}, ${date}, ${n} ${noun}.`],
    ask: [`Are ${n} ${noun} free on the ${kind} ${route} on ${date}?`, `Does the ${kind} ${route} on ${date} still have ${n} ${noun}?`],
  }[action];
  const record = { action, mode: MODES[kind], from, to, seats, date: `${day}.${month}.` } satisfies Booking;
  return { key: spacedJson({ ...record, action: "" }), question: `Travel desk: ${rng.pick(text)}`, answer: spacedJson(record) };
}

export const booking: Task = {
  name: "booking",
  kind: "adaptation",
  about: "travel requests into a booking record of a new schema",
  make: (rng, accept) => chatRow([drawAccepted(() => drawBooking(rng), accept)]),
};
