// Python's notions of text where they differ from JavaScript's: white space, strip, repr of floats.
// Chat templates and the ESFT format were written against Python; `trim()` and `\s` give other text (U+FEFF, U+0085, U+001C-1F).

// Characters for which Python's str.isspace() is true.
// oxlint-disable-next-line no-control-regex -- U+001C-1F are white space to Python
const SPACE = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]/;
const SPACES = new RegExp(`${SPACE.source}+`);
const LONE_SURROGATE = /\p{Surrogate}/u;

/** str.strip / lstrip / rstrip; `chars` is a set of characters, white space when absent. */
export function pythonStrip(text: string, side: "left" | "right" | "both" = "both", chars?: string): string {
  const set = chars === undefined ? null : new Set(chars);
  const drops = (point: string): boolean => (set ? set.has(point) : SPACE.test(point));
  let [from, to] = [0, text.length];
  while (side !== "right" && from < to) {
    const point = String.fromCodePoint(text.codePointAt(from)!);
    if (!drops(point)) break;
    from += point.length;
  }
  while (side !== "left" && from < to) {
    const pair = text.slice(Math.max(from, to - 2), to);
    const point = pair.length === 2 && pair.codePointAt(0)! > 0xffff ? pair : pair.at(-1)!;
    if (!drops(point)) break;
    to -= point.length;
  }
  return text.slice(from, to);
}

/** str.split(): the words between runs of white space. */
export function pythonSplit(text: string): string[] {
  return text.split(SPACES).filter((word) => word !== "");
}

/** repr(float): shortest digits, exponent form below 1e-4 and from 1e16, at least ".0". */
export function pythonFloatRepr(x: number): string {
  if (!Number.isFinite(x)) return Number.isNaN(x) ? "nan" : x < 0 ? "-inf" : "inf";
  if (x === 0) return Object.is(x, -0) ? "-0.0" : "0.0";
  const [mantissa = "", power = "0"] = x.toExponential().split("e");
  const exponent = Number(power);
  if (exponent < -4 || exponent >= 16) return `${mantissa}e${exponent < 0 ? "-" : "+"}${String(Math.abs(exponent)).padStart(2, "0")}`;
  const plain = exponent < 0 ? x.toFixed(Math.max(0, mantissa.replace(/[-.]/g, "").length - 1 - exponent)) : String(x);
  return plain.includes(".") ? plain : `${plain}.0`;
}

/** repr(str): single quotes unless the text has some and no double ones; unprintable characters escaped. */
export function pythonStringRepr(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  const hex = (code: number): string =>
    code < 0x100 ? `x${code.toString(16).padStart(2, "0")}` : code < 0x10000 ? `u${code.toString(16).padStart(4, "0")}` : `U${code.toString(16).padStart(8, "0")}`; // prettier-ignore
  const known: Readonly<Record<string, string>> = { "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", [quote]: `\\${quote}` };
  const shown = (c: string): string => known[c] ?? (c !== " " && /[\p{C}\p{Z}]/u.test(c) ? `\\${hex(c.codePointAt(0) ?? 0)}` : c);
  return quote + Array.from(text, shown).join("") + quote;
}

/** A half of a surrogate pair without its other half: legal in JavaScript and in JSON escapes, not in UTF-8. */
export function hasLoneSurrogate(text: string): boolean {
  return LONE_SURROGATE.test(text);
}
