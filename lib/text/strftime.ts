// datetime.strftime in the C locale, for the clock of templates that write the date.

const DAYS = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"] as const;
const MONTHS = "January February March April May June July August September October November December".split(" ");

/** Local time; `%-d` leaves out padding. @throws Error a field that is not served */
export function strftime(date: Date, format: string): string {
  const two = (n: number): string => String(n).padStart(2, "0");
  const day = DAYS[date.getDay()] ?? "";
  const month = MONTHS[date.getMonth()] ?? "";
  const fields: Readonly<Record<string, string>> = {
    Y: String(date.getFullYear()),
    y: two(date.getFullYear() % 100),
    m: two(date.getMonth() + 1),
    B: month,
    b: month.slice(0, 3),
    d: two(date.getDate()),
    A: day,
    a: day.slice(0, 3),
    H: two(date.getHours()),
    I: two(date.getHours() % 12 || 12),
    M: two(date.getMinutes()),
    S: two(date.getSeconds()),
    p: date.getHours() < 12 ? "AM" : "PM",
    "%": "%",
  };
  const long = format.replaceAll("%F", "%Y-%m-%d").replaceAll("%T", "%H:%M:%S");
  return long.replace(/%(-?)(.?)/gs, (all, minus: string, name: string) => {
    const field = fields[name];
    if (field === undefined) throw new Error(`strftime field ${all} is not supported`);
    return minus === "-" ? field.replace(/^0+(?=.)/, "") : field;
  });
}
