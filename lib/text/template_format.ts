// Python's `text % values`, as far as templates use it, and strftime.

import { asNumber, fail, print, repr, typeName, type Value } from "./template_values.ts";

export function formatPercent(template: string, values: readonly Value[]): string {
  let next = 0;
  const out = template.replace(
    /%([-0+ ]*)(\d*)(?:\.(\d+))?([a-zA-Z%])/g,
    (all, flags: string, width: string, precision: string | undefined, kind: string) => {
      if (kind === "%") return "%";
      if (next >= values.length) return fail("not enough arguments for format string");
      const value = values[next++] as Value;
      let text: string;
      const number = asNumber(value);
      switch (kind) {
        case "s":
          text = precision === undefined ? print(value) : Array.from(print(value)).slice(0, Number(precision)).join("");
          break;
        case "r":
          text = repr(value);
          break;
        case "d":
        case "i":
          text = String(Math.trunc(number ?? fail(`%d format: a number is required, not ${typeName(value)}`)));
          break;
        case "x":
          text = (number ?? fail(`%x format: an integer is required, not ${typeName(value)}`)).toString(16);
          break;
        case "f":
          text = (number ?? fail(`must be real number, not ${typeName(value)}`)).toFixed(Number(precision ?? 6));
          break;
        default:
          return fail(`format ${all} is not supported`);
      }
      const missing = Math.max(0, Number(width || 0) - Array.from(text).length);
      if (flags.includes("-")) return text + " ".repeat(missing);
      const sign = flags.includes("+") && number !== null && number >= 0 && kind !== "s" ? "+" : "";
      return flags.includes("0") && kind !== "s"
        ? text.replace(/^-?/, (minus) => minus + sign + "0".repeat(missing))
        : " ".repeat(missing) + sign + text;
    },
  );
  return next < values.length ? fail("not all arguments converted during string formatting") : out;
}

const DAYS = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"] as const;
const MONTHS = [
  "January",
  "February",
  "March",
  "April",
  "May",
  "June",
  "July",
  "August",
  "September",
  "October",
  "November",
  "December",
] as const;

/** datetime.strftime in the C locale, local time. `%-d` leaves out padding, as glibc does. */
export function strftime(date: Date, format: string): string {
  const two = (n: number): string => String(n).padStart(2, "0");
  const day = (name: readonly string[], i: number): string => name[i] as string;
  const dayOfYear =
    Math.round((Date.UTC(date.getFullYear(), date.getMonth(), date.getDate()) - Date.UTC(date.getFullYear(), 0, 1)) / 86_400_000) + 1;
  const fields: Readonly<Record<string, () => string>> = {
    Y: () => String(date.getFullYear()),
    y: () => two(date.getFullYear() % 100),
    m: () => two(date.getMonth() + 1),
    d: () => two(date.getDate()),
    e: () => String(date.getDate()).padStart(2, " "),
    B: () => day(MONTHS, date.getMonth()),
    b: () => day(MONTHS, date.getMonth()).slice(0, 3),
    h: () => day(MONTHS, date.getMonth()).slice(0, 3),
    A: () => day(DAYS, date.getDay()),
    a: () => day(DAYS, date.getDay()).slice(0, 3),
    H: () => two(date.getHours()),
    I: () => two(date.getHours() % 12 || 12),
    M: () => two(date.getMinutes()),
    S: () => two(date.getSeconds()),
    p: () => (date.getHours() < 12 ? "AM" : "PM"),
    j: () => String(dayOfYear).padStart(3, "0"),
    w: () => String(date.getDay()),
    u: () => String(date.getDay() || 7),
    f: () => String(date.getMilliseconds() * 1000).padStart(6, "0"),
    F: () => strftime(date, "%Y-%m-%d"),
    T: () => strftime(date, "%H:%M:%S"),
    R: () => strftime(date, "%H:%M"),
    D: () => strftime(date, "%m/%d/%y"),
    x: () => strftime(date, "%m/%d/%y"),
    X: () => strftime(date, "%H:%M:%S"),
    c: () => strftime(date, "%a %b %e %H:%M:%S %Y"),
    Z: () => "", // a naive datetime has no zone
    z: () => "",
    n: () => "\n",
    t: () => "\t",
    "%": () => "%",
  };
  return format.replace(/%(-?)(.)/gs, (all, minus: string, name: string) => {
    const field = fields[name];
    if (field === undefined) return fail(`strftime field ${all} is not supported`);
    return minus === "-" ? field().replace(/^[0 ]+(?=.)/, "") : field();
  });
}
