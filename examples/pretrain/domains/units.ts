// Units: lengths, weights, times and money, always with whole results.
import type { Rng } from "../rng.ts";
import { chatRow, drawAccepted, type Domain, type Fact } from "./types.ts";

interface Conversion {
  readonly big: string;
  readonly small: string;
  readonly factor: number;
  readonly max: number;
}

/** One big unit is `factor` small ones; amounts run to `max`. */
export const CONVERSIONS: readonly Conversion[] = [
  { big: "km", small: "m", factor: 1000, max: 90 },
  { big: "m", small: "cm", factor: 100, max: 90 },
  { big: "cm", small: "mm", factor: 10, max: 90 },
  { big: "kg", small: "g", factor: 1000, max: 60 },
  { big: "t", small: "kg", factor: 1000, max: 40 },
  { big: "l", small: "ml", factor: 1000, max: 40 },
  { big: "euros", small: "cents", factor: 100, max: 60 },
  { big: "hours", small: "minutes", factor: 60, max: 12 },
  { big: "minutes", small: "seconds", factor: 60, max: 12 },
  { big: "days", small: "hours", factor: 24, max: 10 },
  { big: "weeks", small: "days", factor: 7, max: 15 },
  { big: "years", small: "months", factor: 12, max: 12 },
  { big: "dozens", small: "eggs", factor: 12, max: 12 },
];

type Draw = (rng: Rng) => Fact & { readonly line: string };

const convert: Draw = (rng) => {
  const { big, small, factor, max } = rng.pick(CONVERSIONS);
  const n = rng.int(2, max);
  const down = rng.chance(0.55);
  const [from, to] = down ? [`${n} ${big}`, `${n * factor} ${small}`] : [`${n * factor} ${small}`, `${n} ${big}`];
  return {
    key: `${from} ${to}`,
    question: rng.pick([`Convert ${from} to ${down ? small : big}.`, `How many ${down ? small : big} are ${from}?`]),
    answer: to,
    line: rng.chance(0.5) ? `${from} = ${to}` : `${from} are ${to}.`,
  };
};

const compare: Draw = (rng) => {
  const { big, small, factor, max } = rng.pick(CONVERSIONS);
  const n = rng.int(2, Math.min(max, 20));
  // The other amount is a whole number of small units, never equal to the first.
  const offset = rng.int(1, Math.max(1, Math.floor(factor / 2))) * (rng.chance(0.5) ? 1 : -1);
  const other = n * factor + offset;
  const [a, b] = [`${n} ${big}`, `${other} ${small}`];
  const more = offset < 0 ? a : b;
  const swap = rng.chance(0.5);
  const [x, y] = swap ? [b, a] : [a, b];
  return {
    key: `compare ${a} ${b}`,
    question: `Which is more, ${x} or ${y}?`,
    answer: more,
    line: `${more} is more than ${more === a ? b : a}.`,
  };
};

/** Clock times on the full five minutes: add a duration. */
const clock: Draw = (rng) => {
  const [hour, minute, plus] = [rng.int(0, 23), rng.int(0, 11) * 5, rng.int(1, 24) * 5];
  const at = (minutes: number): string => `${Math.floor(minutes / 60) % 24}:${`${minutes % 60}`.padStart(2, "0")}`;
  const [start, end] = [at(hour * 60 + minute), at(hour * 60 + minute + plus)];
  return {
    key: `clock ${start}+${plus}`,
    question: `It is ${start}. What time is it ${plus} minutes later?`,
    answer: end,
    line: `${plus} minutes after ${start} it is ${end}.`,
  };
};

export const units: Domain = {
  name: "units",
  about: "conversion and comparison of lengths, weights, times and money; clock times",
  make(rng, accept) {
    const draw = (): ReturnType<Draw> => {
      const kind = rng.float();
      return (kind < 0.6 ? convert : kind < 0.8 ? compare : clock)(rng);
    };
    if (rng.chance(0.55)) return chatRow(Array.from({ length: rng.int(2, 4) }, () => drawAccepted(draw, accept)));
    return { text: Array.from({ length: rng.int(4, 7) }, () => drawAccepted(draw, accept).line).join("\n") };
  },
};
