// Stop strings over pieces: the text ends where the first stop string begins, however it was cut; what is held back; refusals.

import { describe, expect, test } from "vitest";
import { ConfigError } from "../../lib/errors.ts";
import { StopStrings } from "../../lib/generate/stops.ts";
import { Random } from "../fuzz/random.ts";

/** What goes out of each piece, then what is left. */
function run(stops: StopStrings, pieces: readonly string[]): { out: string[]; stopped: string | null } {
  const scan = stops.scan();
  const out = [...pieces.map((piece) => scan.push(piece)), scan.end()];
  return { out, stopped: scan.stopped };
}
function first(text: string, stops: readonly string[]): number {
  return Math.min(...stops.map((s) => text.indexOf(s)).map((at) => (at < 0 ? Infinity : at)));
}
function cut(text: string, random: Random): string[] {
  const units = Array.from(text);
  const pieces: string[] = [];
  while (units.length > 0) pieces.push(units.splice(0, random.below(5)).join(""));
  return pieces;
}

describe("the text before the first stop string", () => {
  // few letters: overlaps, one string inside another, beginnings that fail late
  test.each([["ab"], ["abc"], ["a🙂😁"]])("of random texts over %s, cut at random", (alphabet) => {
    const letters = Array.from(alphabet);
    const random = new Random("stops", alphabet);
    const word = (length: number): string => Array.from({ length }, () => random.pick(letters)).join("");
    let stopped = 0;
    for (let n = 0; n < 20_000; n++) {
      const strings = Array.from({ length: 1 + random.below(4) }, () => word(1 + random.below(7)));
      const text = word(random.below(30));
      const { out, stopped: by } = run(new StopStrings(strings), cut(text, random));
      const at = first(text, strings);
      expect(out.join(""), JSON.stringify({ text, strings })).toBe(text.slice(0, at));
      expect(by === null).toBe(at === Infinity);
      if (by !== null) expect(text.startsWith(by, at)).toBe(true);
      stopped += by === null ? 0 : 1;
    }
    expect(stopped).toBeGreaterThan(2000);
    expect(stopped).toBeLessThan(19_000);
  });

  test("nothing is held back that can begin no stop string", () => {
    const random = new Random("held");
    for (let n = 0; n < 5000; n++) {
      const strings = Array.from({ length: 1 + random.below(3) }, () =>
        Array.from({ length: 1 + random.below(6) }, () => random.pick(["a", "b"])).join(""),
      );
      const scan = new StopStrings(strings).scan();
      let [seen, out] = ["", ""];
      for (let i = 0; i < 20; i++) {
        const piece = random.pick(["a", "b", "ab", "bba", "c"]);
        seen += piece;
        out += scan.push(piece);
        if (first(seen, strings) < Infinity) break; // another one may be open before it
        const held = Array.from(seen, (_, at) => seen.slice(at)).find((end) => strings.some((s) => s.startsWith(end))) ?? "";
        expect(out).toBe(seen.slice(0, seen.length - held.length));
      }
    }
  });

  test("a string inside another one that begins earlier waits for it", () => {
    const stops = new StopStrings(["abcd", "c"]);
    expect(run(stops, ["xab", "c", "d"])).toEqual({ out: ["x", "", "", ""], stopped: "abcd" });
    expect(run(stops, ["xab", "c", "e"])).toEqual({ out: ["x", "", "ab", ""], stopped: "c" });
    expect(run(stops, ["xab", "c"])).toEqual({ out: ["x", "", "ab"], stopped: "c" });
    expect(run(stops, ["xab"])).toEqual({ out: ["x", "ab"], stopped: null });
  });

  test("what comes after the stop is dropped", () => {
    const scan = new StopStrings(["\n\n"]).scan();
    expect([scan.push("one\n"), scan.push("\ntwo"), scan.push("three"), scan.end()]).toEqual(["one", "", "", ""]);
    expect(scan.stopped).toBe("\n\n");
  });

  test("no strings: everything goes out", () => {
    expect(run(new StopStrings(), ["a", "", "b"])).toEqual({ out: ["a", "", "b", ""], stopped: null });
  });

  test("one automaton serves texts side by side", () => {
    const stops = new StopStrings(["END"]);
    const [a, b] = [stops.scan(), stops.scan()];
    expect([a.push("xE"), b.push("yEN"), a.push("ND"), b.push("E")]).toEqual(["x", "y", "", "EN"]);
    expect([a.stopped, b.stopped, b.end()]).toEqual(["END", null, "E"]);
  });

  test("a long text in single characters, all of it almost a stop string", () => {
    const stops = new StopStrings([`${"a".repeat(4000)}b`, "a".repeat(4096)]);
    const scan = stops.scan();
    const begin = process.cpuUsage();
    let out = "";
    for (let n = 0; n < 300; n++) for (let i = 0; i < 4001; i++) out += scan.push(i === 4000 ? "c" : "a");
    expect(out + scan.end()).toBe(`${"a".repeat(4000)}c`.repeat(300));
    expect(process.cpuUsage(begin).user).toBeLessThan(10e6); // 1.2·10⁶ characters; the answer again for each would be 10¹²
  });
});

test.each([
  [Array<string>(17).fill("x"), /stop: expected at most 16 stop strings, found 17/],
  [[""], /stop: expected a text that is not empty, found ""/],
  [["a", 5], /stop\[1\]: expected a text that is not empty, found 5/],
  [["a".repeat(4097)], /stop: expected at most 4096 characters/],
  [["a\ud83d"], /halves of UTF-16 pairs/],
  ["abc", /stop: expected a list, found "abc"/],
])("refused: %#", (strings, message) => {
  const make = (): StopStrings => new StopStrings(strings as string[]);
  expect(make).toThrow(ConfigError);
  expect(make).toThrow(message);
});
