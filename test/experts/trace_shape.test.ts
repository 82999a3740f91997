// What routing logs do not say: experts per token and per layer, told where the ids leave no doubt, refused where they do. No GPU.
// Run alone: npx vitest run test/experts/trace_shape.test.ts

import { describe, expect, it } from "vitest";
import { ConfigError } from "../../lib/errors.ts";
import { inferExperts, MAX_ID, TopKEvidence } from "../../lib/experts/trace_shape.ts";

const fail = (message: string): never => {
  throw new Error(message);
};
/** What is concluded from these lines of ids. */
function topK(lines: readonly (readonly number[])[], given?: number): number {
  const evidence = new TopKEvidence(given);
  for (const ids of lines) evidence.add(ids, fail);
  return evidence.conclude("logs");
}
/** Tokens of K of E experts; the first ones are the same in all, so that two tokens never look like one. */
const tokens = (n: number, K: number, E: number): number[] =>
  Array.from({ length: n }, (_, t) => Array.from({ length: K }, (__, i) => (i < K - 1 ? i : i + (t % (E - K + 1))))).flat();
const refusal = (ids: readonly number[]): RegExpExecArray | null => {
  try {
    topK([ids]);
    return null;
  } catch (error) {
    expect(error).toMatchObject({ code: "ERR_CONFIG", where: { file: "logs", option: "topK" } });
    return /from (\d+) expert ids whether each token has (\d+) or (\d+) experts/.exec((error as ConfigError).message);
  }
};

describe("experts per token", () => {
  it("are the most that divide every line without a repeat", () => {
    expect([topK([tokens(60, 3, 5)]), topK([tokens(60, 4, 6)]), topK([tokens(30, 3, 5), tokens(30, 3, 5)])]).toEqual([3, 4, 3]);
    // A line that two tokens of three explain as well as one of six; the others do not.
    expect(topK([[0, 1, 2, 3, 4, 5], ...Array.from({ length: 60 }, () => [0, 1, 2, 0, 1, 2])])).toBe(3);
    expect(topK([...Array.from({ length: 60 }, () => [0, 1, 2, 0, 1, 2]), [0, 1, 2, 3, 4, 5]])).toBe(3);
    // Lines of 6 and 9 different experts have 3 in common.
    const lines = (n: number) => Array.from({ length: 60 }, () => Array.from({ length: n }, (_, i) => i));
    expect(topK([...lines(6), ...lines(9)])).toBe(3);
    // The same expert twice in a row: one a token.
    expect(topK([[4, 4, 2, 4]])).toBe(1);
    expect(topK([[7]])).toBe(1);
    expect(new TopKEvidence(undefined).conclude("logs")).toBe(1);
  });

  it("are believed when fewer had repeated an expert but for one chance in a million", () => {
    // Two of four: (3/4)^48 is above 1e-6, (3/4)^49 below.
    expect(refusal(tokens(48, 2, 4))?.slice(1)).toEqual(["96", "2", "1"]);
    expect(topK([tokens(49, 2, 4)])).toBe(2);
    // Four of eight, or two: (6·5 / 8·7)^22 is above, ^23 below; in more than one line too.
    expect(refusal(tokens(22, 4, 8))?.slice(1)).toEqual(["88", "4", "2"]);
    expect(topK([tokens(23, 4, 8)])).toBe(4);
    expect(topK([tokens(11, 4, 8), tokens(12, 4, 8)])).toBe(4);
    // Six of nine, or three: (6·5·4 / 9·8·7)^9 is above, ^10 below; the highest id alone says that there are nine.
    const most = (n: number): number[] => [...tokens(n - 1, 6, 7), 0, 1, 2, 3, 4, 8];
    expect(refusal(most(9))?.slice(1)).toEqual(["54", "6", "3"]);
    expect(topK([most(10)])).toBe(6);
  });

  it("are judged by the highest id, wherever it stood", () => {
    expect(refusal([0, 8, ...tokens(60, 2, 3)])?.slice(1)).toEqual(["122", "2", "1"]);
    expect(topK([[0, 8, ...tokens(200, 2, 3)]])).toBe(2);
  });

  it("that are given are not concluded, but checked", () => {
    expect(topK([[0, 1, 2, 3]], 2)).toBe(2);
    expect(topK([[0, 1, 1, 0]], 2)).toBe(2);
    expect(() => topK([[0, 1, 2]], 2)).toThrow("expected a multiple of topK = 2 expert ids, found 3");
    expect(() => topK([[0, 1, 5, 2, 4, 4]], 3)).toThrow("expected 3 different experts per token, found expert 4 twice in token 1");
    expect(() => topK([[5, 5]], 2)).toThrow("found expert 5 twice in token 0");
    expect(topK([[MAX_ID, 0]], 2)).toBe(2);
  });
});

describe("experts per layer", () => {
  const of = (...highest: number[]): number =>
    inferExperts(
      "logs",
      highest.map((maxId) => ({ maxId })),
    );
  it("are those that most layers used, no layer more", () => {
    expect([of(7), of(7, 7, 3), of(0)]).toEqual([8, 8, 1]);
    for (const layers of [[7, 3], [7, 6, 7, 6], [3, 3, 7]]) expect(() => of(...layers)).toThrow(ConfigError); // prettier-ignore
    expect(() => of(3, 3, 7)).toThrow(/the highest id is 7, used in only 1 of 3 layers/);
  });
});
