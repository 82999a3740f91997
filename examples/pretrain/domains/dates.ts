// Dates: weekdays, days between, formats, months. All arithmetic is by the Gregorian calendar in UTC.
import type { Rng } from "../rng.ts";
import { chatRow, drawAccepted, type Domain, type Fact } from "./types.ts";
import { MONTHS, WEEKDAYS } from "./words.ts";

const DAY_MS = 86_400_000;

/** Days since 1970-01-01. */
function dayNumber(year: number, month: number, day: number): number {
  return Date.UTC(year, month - 1, day) / DAY_MS;
}

function daysIn(year: number, month: number): number {
  return dayNumber(month === 12 ? year + 1 : year, (month % 12) + 1, 1) - dayNumber(year, month, 1);
}

const two = (n: number): string => `${n}`.padStart(2, "0");

type Draw = (rng: Rng) => Fact & { readonly line: string };

const DRAWS: readonly Draw[] = [
  (rng) => {
    const from = rng.int(0, 6);
    const days = rng.int(1, 13);
    const back = rng.chance(0.4);
    const to = (((back ? from - days : from + days) % 7) + 7) % 7;
    const [today, then] = [WEEKDAYS[from] as string, WEEKDAYS[to] as string];
    const unit = days === 1 ? "day" : "days";
    return {
      key: `weekday ${from} ${back ? "-" : "+"}${days}`,
      question: back
        ? `Today is ${today}. Which day was it ${days} ${unit} ago?`
        : `Today is ${today}. Which day is it in ${days} ${unit}?`,
      answer: then,
      line: back ? `${days} ${unit} before ${today} was ${then}.` : `${days} ${unit} after ${today} is ${then}.`,
    };
  },
  (rng) => {
    const [year, month] = [rng.int(1990, 2030), rng.int(1, 12)];
    const day = rng.int(1, daysIn(year, month));
    const [words, iso] = [`${day} ${MONTHS[month - 1]} ${year}`, `${year}-${two(month)}-${two(day)}`];
    return rng.chance(0.6)
      ? { key: iso, question: `Write ${words} as numbers.`, answer: iso, line: `${words} is ${iso}.` }
      : { key: iso, question: `Write ${iso} in words.`, answer: words, line: `${iso} is ${words}.` };
  },
  (rng) => {
    const month = rng.int(1, 12);
    const name = MONTHS[month - 1] as string;
    const first = rng.int(1, daysIn(2023, month) - 1);
    const last = rng.int(first + 1, daysIn(2023, month));
    const n = last - first;
    return {
      key: `between ${month} ${first} ${last}`,
      question: `How many days are there from ${first} ${name} to ${last} ${name}?`,
      answer: `${n}`,
      line: `From ${first} ${name} to ${last} ${name} it is ${n} ${n === 1 ? "day" : "days"}.`,
    };
  },
  (rng) => {
    const [year, month, day] = [rng.int(2001, 2028), rng.int(1, 12), rng.int(1, 28)];
    const later = rng.int(1, 10);
    const date = new Date((dayNumber(year, month, day) + later) * DAY_MS);
    const from = `${year}-${two(month)}-${two(day)}`;
    const to = date.toISOString().slice(0, 10);
    const unit = later === 1 ? "day" : "days";
    return {
      key: `${from}+${later}`,
      question: `Which date is ${later} ${unit} after ${from}?`,
      answer: to,
      line: `${later} ${unit} after ${from} it is ${to}.`,
    };
  },
  (rng) => {
    const month = rng.int(1, 12);
    const step = rng.int(1, 6);
    const [from, to] = [MONTHS[month - 1] as string, MONTHS[(month - 1 + step) % 12] as string];
    const unit = step === 1 ? "month" : "months";
    return {
      key: `month ${month}+${step}`,
      question: `Which month is ${step} ${unit} after ${from}?`,
      answer: to,
      line: `${step} ${unit} after ${from} comes ${to}.`,
    };
  },
];

export const dates: Domain = {
  name: "dates",
  about: "weekdays, formats, differences and sums of dates",
  make(rng, accept) {
    const draw = (): ReturnType<Draw> => rng.pick(DRAWS)(rng);
    if (rng.chance(0.55)) return chatRow(Array.from({ length: rng.int(1, 3) }, () => drawAccepted(draw, accept)));
    return { text: Array.from({ length: rng.int(3, 5) }, () => drawAccepted(draw, accept).line).join("\n") };
  },
};
