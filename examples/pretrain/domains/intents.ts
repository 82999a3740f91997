// Short requests at a town's counters (library, post, bank, sports hall, help desk) and their intent as JSON.
import type { Rng } from "../rng.ts";
import { chatRow, drawAccepted, type Domain, type Fact } from "./types.ts";
import { NAMES } from "./words.ts";

const BOOKS = ["atlas", "novel", "cookbook", "dictionary", "comic", "diary"] as const;
const SPORTS = ["tennis", "squash", "bowling", "judo", "swimming", "climbing"] as const;
const MACHINES = ["printer", "laptop", "scanner", "screen", "keyboard", "router"] as const;
const DISHES = ["soup", "salad", "pizza", "noodles", "pancakes", "curry"] as const;
const ROOMS = ["hall", "office", "studio", "lobby", "attic"] as const;

type Phrases = (rng: Rng) => string;

/** Every intent with ways to ask for it. */
export const INTENTS: Readonly<Record<string, Phrases>> = {
  renew_book: (rng) => {
    const book = rng.pick(BOOKS);
    return rng.pick([`I need the ${book} for another week`, `can I keep the ${book} longer`, `extend my ${book} please`]);
  },
  track_parcel: (rng) => {
    const name = rng.pick(NAMES);
    return rng.pick([`where is my parcel for ${name}`, `has the package from ${name} arrived`, `when does the box from ${name} come`]);
  },
  check_balance: (rng) =>
    rng.pick(["how much money is left on my account", "what is my balance", `do I still have ${rng.int(2, 90)} euros`]),
  send_money: (rng) => {
    const [name, n] = [rng.pick(NAMES), rng.int(2, 90)];
    return rng.pick([`send ${n} euros to ${name}`, `pay ${name} ${n} euros`, `transfer ${n} to ${name}`]);
  },
  book_court: (rng) => {
    const [sport, hour] = [rng.pick(SPORTS), rng.int(8, 20)];
    return rng.pick([`a ${sport} slot at ${hour} please`, `is there room for ${sport} at ${hour}`, `we want to do ${sport} from ${hour}`]);
  },
  report_fault: (rng) => {
    const machine = rng.pick(MACHINES);
    return rng.pick([`the ${machine} is broken`, `my ${machine} does not start`, `smoke comes out of the ${machine}`]);
  },
  reset_password: (rng) => {
    const machine = rng.pick(MACHINES);
    return rng.pick([`I forgot the password of my ${machine}`, `new login for the ${machine}`, "I cannot log in any more"]);
  },
  order_meal: (rng) => {
    const [dish, n] = [rng.pick(DISHES), rng.int(2, 9)];
    return rng.pick([`${n} times ${dish} for us`, `bring me ${dish} please`, `we take the ${dish}, ${n} plates`]);
  },
  lights: (rng) => {
    const room = rng.pick(ROOMS);
    return rng.pick([`it is too dark in the ${room}`, `make the ${room} brighter`, `switch the lamps in the ${room} off`]);
  },
  find_person: (rng) => {
    const [name, room] = [rng.pick(NAMES), rng.pick(ROOMS)];
    return rng.pick([`is ${name} in the ${room}`, `where can I find ${name}`, `I am looking for ${name}`]);
  },
};

const LABELS = Object.keys(INTENTS);
const OPENERS = ["", "", "", "hello, ", "sorry, ", "good morning, ", "one question: "] as const;
const QUESTIONS = ["What does the visitor want?", "Name the intent.", "Intent?"] as const;

export const intents: Domain = {
  name: "intents",
  about: "short requests and their intent as JSON",
  make(rng, accept) {
    const draw = (): Fact & { readonly line: string } => {
      const intent = rng.pick(LABELS);
      const said = rng.pick(OPENERS) + (INTENTS[intent] as Phrases)(rng);
      const answer = `{"intent": "${intent}"}`;
      return { key: said, question: `"${said}" ${rng.pick(QUESTIONS)}`, answer, line: `"${said}" = ${intent}` };
    };
    if (rng.chance(0.6)) return chatRow(Array.from({ length: rng.int(1, 3) }, () => drawAccepted(draw, accept)));
    return { text: Array.from({ length: rng.int(3, 4) }, () => drawAccepted(draw, accept).line).join("\n") };
  },
};
