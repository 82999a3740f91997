// Python's notions of text where they differ from JavaScript's: white space, strip, split, repr of floats.
// Chat templates and the ESFT format were written against Python; `trim()` and `\s` give other text (U+FEFF, U+0085, U+001C-1F).

/** Characters for which Python's str.isspace() is true, as a regular-expression class body. */
export const PYTHON_SPACE = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";

const SPACE = new RegExp(`[${PYTHON_SPACE}]`);
const SPACE_RUN = new RegExp(`[${PYTHON_SPACE}]+`, "g");
// oxlint-disable-next-line no-control-regex -- Python ends lines at U+001C-1E too
const LINE_END = /\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]/g;
const LONE_SURROGATE = /\p{Surrogate}/u;

export type StripSide = "left" | "right" | "both";

export function isPythonSpace(char: string): boolean {
  return SPACE.test(char);
}

/** str.strip / lstrip / rstrip; `chars` is a set of characters, white space when absent. */
export function pythonStrip(text: string, side: StripSide = "both", chars?: string): string {
  const set = chars === undefined ? null : new Set(chars);
  const drop = (char: string): boolean => (set === null ? SPACE.test(char) : set.has(char));
  let start = 0;
  let end = text.length;
  if (side !== "right") {
    while (start < end) {
      const char = String.fromCodePoint(text.codePointAt(start) ?? 0);
      if (!drop(char)) break;
      start += char.length;
    }
  }
  if (side !== "left") {
    while (end > start) {
      const low = text.charCodeAt(end - 1);
      const pair = low >= 0xdc00 && low <= 0xdfff && end - 2 >= start && (text.charCodeAt(end - 2) & 0xfc00) === 0xd800;
      const char = text.slice(end - (pair ? 2 : 1), end);
      if (!drop(char)) break;
      end -= char.length;
    }
  }
  return text.slice(start, end);
}

/** str.split(sep, maxsplit); without `sep` runs of white space separate and the ends are dropped. */
export function pythonSplit(text: string, sep: string | null = null, maxSplit = -1): string[] {
  const limit = maxSplit < 0 ? Number.POSITIVE_INFINITY : maxSplit;
  if (sep !== null) {
    const parts: string[] = [];
    let at = 0;
    while (parts.length < limit) {
      const next = text.indexOf(sep, at);
      if (next < 0) break;
      parts.push(text.slice(at, next));
      at = next + sep.length;
    }
    parts.push(text.slice(at));
    return parts;
  }
  const parts: string[] = [];
  let rest = pythonStrip(text, "left");
  while (rest !== "") {
    SPACE_RUN.lastIndex = 0;
    const gap = parts.length < limit ? SPACE_RUN.exec(rest) : null;
    if (gap === null) {
      parts.push(parts.length < limit ? rest : pythonStrip(rest, "right"));
      break;
    }
    parts.push(rest.slice(0, gap.index));
    rest = rest.slice(gap.index + gap[0].length);
  }
  return parts;
}

/** str.rsplit: as split, counting from the right. */
export function pythonRsplit(text: string, sep: string | null = null, maxSplit = -1): string[] {
  if (maxSplit < 0) return pythonSplit(text, sep);
  const reversed = (s: string): string => Array.from(s).reverse().join("");
  return pythonSplit(reversed(text), sep === null ? null : reversed(sep), maxSplit)
    .map(reversed)
    .reverse();
}

export function pythonSplitLines(text: string, keepEnds = false): string[] {
  const lines: string[] = [];
  let at = 0;
  for (const match of text.matchAll(LINE_END)) {
    lines.push(text.slice(at, keepEnds ? match.index + match[0].length : match.index));
    at = match.index + match[0].length;
  }
  if (at < text.length) lines.push(text.slice(at));
  return lines;
}

/** repr(float): shortest digits, exponent form below 1e-4 and from 1e16, at least ".0". */
export function pythonFloatRepr(x: number): string {
  if (Number.isNaN(x)) return "nan";
  if (!Number.isFinite(x)) return x < 0 ? "-inf" : "inf";
  if (Object.is(x, -0)) return "-0.0";
  if (x === 0) return "0.0";
  const [mantissa = "", power = "0"] = x.toExponential().split("e");
  const exponent = Number(power);
  if (exponent < -4 || exponent >= 16) {
    const digits = String(Math.abs(exponent)).padStart(2, "0");
    return `${mantissa}e${exponent < 0 ? "-" : "+"}${digits}`;
  }
  const plain = exponent < 0 ? x.toFixed(Math.max(0, mantissa.replace(/[-.]/g, "").length - 1 - exponent)) : String(x);
  return plain.includes(".") ? plain : `${plain}.0`;
}

const QUOTE_ESCAPES: ReadonlyMap<string, string> = new Map([
  ["\\", "\\\\"],
  ["\n", "\\n"],
  ["\r", "\\r"],
  ["\t", "\\t"],
]);

/** repr(str): single quotes unless the text has some and no double ones; unprintable characters escaped. */
export function pythonStringRepr(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  let out = quote;
  for (const char of text) {
    const code = char.codePointAt(0) ?? 0;
    const known = QUOTE_ESCAPES.get(char);
    if (char === quote) out += `\\${char}`;
    else if (known !== undefined) out += known;
    else if (char === " " || !/[\p{C}\p{Z}]/u.test(char)) out += char;
    else if (code < 0x100) out += `\\x${code.toString(16).padStart(2, "0")}`;
    else if (code < 0x10000) out += `\\u${code.toString(16).padStart(4, "0")}`;
    else out += `\\U${code.toString(16).padStart(8, "0")}`;
  }
  return out + quote;
}

/** A half of a surrogate pair without its other half: legal in JavaScript and in JSON escapes, not in UTF-8. */
export function hasLoneSurrogate(text: string): boolean {
  return LONE_SURROGATE.test(text);
}
