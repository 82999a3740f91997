// A profile by itself: which sums it takes, the scores it gives of them, and files of it. No GPU.
// Alone: npx vitest run test/experts/profile.test.ts

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { Profile } from "../../lib/experts/profile.ts";
import type { ScoreOptions } from "../../lib/experts/scores.ts";
import { tempDir } from "../support/fixture.ts";

const root = tempDir();
const layer = { layer: 2, tokens: 8, counts: [4, 12], gateSums: [2, 0.5] };
const sequences = { sequenceTokenSums: [0.5, 3], sequenceGateSums: [1, 4] };
const data = { source: "model", topK: 2, experts: 2, sequences: 4, layers: [layer] } as const;
const profile = (more: object = {}): Profile => new Profile({ ...data, ...more } as never);
const ofLayer = (more: object): Profile => profile({ layers: [{ ...layer, ...more }] });

describe("a profile", () => {
  it("takes up to all experts per token, in every layer", () => {
    expect(profile().layer(2)).toEqual(layer); // two of two
    const none = { tokens: 0, counts: [0, 0], gateSums: [0, 0] };
    expect(() => profile({ topK: 3, layers: [{ ...layer, ...none }] })).toThrow(
      "profile, layer 2: expected topK <= experts, found topK 3 and 2 experts",
    );
    expect(() => ofLayer({ topK: 3, ...none })).toThrow("found topK 3 and 2 experts");
    expect(() => ofLayer({ sequenceGateSums: [1] })).toThrow("profile, layer 2: expected 2 values in sequenceGateSums, found 1");
    expect(() => ofLayer({ counts: [4, 11] })).toThrow("expected counts to add up to 2 experts × 8 tokens = 16, found 15");
    for (const bad of [{ counts: [4, 11] }, { gateSums: [1] }]) {
      const make = () => new Profile({ ...data, layers: [{ ...layer, ...bad }] } as never, "file.json");
      expect(make).toThrow(expect.objectContaining({ code: "ERR_CONFIG", where: { file: "file.json", layer: 2 } }));
    }
  });

  it("knows its layers in ascending order, their sizes and the tokens of the one that saw most", () => {
    const p = profile({
      layers: [
        { layer: 10, tokens: 2, counts: [2, 2], gateSums: [1, 1] },
        { layer: 3, tokens: 9, topK: 1, experts: 3, counts: [1, 5, 3], gateSums: [1, 1, 1] },
        { layer: 4, tokens: 4, counts: [4, 4], gateSums: [1, 1] },
      ],
    });
    expect([p.layers, p.tokens, p.experts, p.expertCount, [...p.layout]]).toEqual([[3, 4, 10], 9, 2, 7, [[3, 3], [4, 2], [10, 2]]]); // prettier-ignore
    expect([p.topK(3), p.topK(4), p.base]).toEqual([1, 2, undefined]);
    expect(profile({ model: { fingerprint: "f" } }).base).toBe("f");
    expect(() => p.layer(5)).toThrow(expect.objectContaining({ code: "ERR_CONFIG", where: { layer: 5 } }));
    expect(() => p.layer(5)).toThrow("profile: expected one of the layers 3, 4, 10, found 5");
  });
});

describe("scores", () => {
  const scores = (p: Profile, options: ScoreOptions): number[] => [...p.scores(2, options)];
  const whole = ofLayer(sequences);
  it.each<[ScoreOptions, number[]]>([
    [{ score: "token" }, [0.25, 0.75]],
    [{ score: "gate" }, [0.25, 0.0625]],
    [{ score: "gate", gateNormalize: "raw" }, [0.25, 0.0625]],
    [{ score: "gate", gateNormalize: "perLayer" }, [0.8, 0.2]],
    [{ score: "token", average: "tokens" }, [0.25, 0.75]],
    [{ score: "token", average: "sequences" }, [0.125, 0.75]],
    [{ score: "token", average: "sequences", gateNormalize: "perLayer" }, [0.125, 0.75]], // gate scores alone are scaled
    [{ score: "gate", average: "sequences" }, [0.25, 1]],
    [{ score: "gate", average: "sequences", gateNormalize: "perLayer" }, [0.2, 0.8]],
  ])("%j", (options, wanted) => expect(scores(whole, options)).toEqual(wanted));

  it("of no gate weight at all are 0 on any scale", () => {
    expect(scores(ofLayer({ gateSums: [0, 0] }), { score: "gate", gateNormalize: "perLayer" })).toEqual([0, 0]);
    expect([whole.layerMass(2), ofLayer({ gateSums: [0, 0] }).layerMass(2)]).toEqual([0.3125, 0]);
  });

  it("of sequences need sums of sequences, of the kind that is asked for", () => {
    const asked = (p: Profile, score: "token" | "gate") => () => p.scores(2, { score, average: "sequences" });
    const refused = expect.objectContaining({ code: "ERR_CONFIG", where: { layer: 2 } });
    const { sequenceTokenSums, sequenceGateSums } = sequences;
    for (const p of [profile(), profile({ sequences: 0, layers: [{ ...layer, ...sequences }] })])
      for (const score of ["token", "gate"] as const) expect(asked(p, score)).toThrow(refused);
    expect(asked(ofLayer({ sequenceTokenSums }), "gate")).toThrow(refused);
    expect(asked(ofLayer({ sequenceTokenSums }), "token")()).toEqual(Float64Array.of(0.125, 0.75));
    expect(asked(ofLayer({ sequenceGateSums }), "token")).toThrow(/average "sequences" needs per-sequence sums/);
    const none = ofLayer({ tokens: 0, counts: [0, 0], gateSums: [0, 0] });
    expect(() => none.scores(2, { score: "token" })).toThrow(refused);
  });
});

describe("files", () => {
  it("hold what was measured, and are refused by name when they do not", async () => {
    const path = join(root, "profile.json");
    await profile({ seed: 3, layers: [{ ...layer, ...sequences }] }).save(path);
    const loaded = await Profile.load(path);
    expect(loaded.toJSON()).toEqual({ format: "esft-profile", version: 1, ...data, seed: 3, layers: [{ ...layer, ...sequences }] });
    for (const [text, message] of [
      [JSON.stringify({ ...loaded.toJSON(), layers: [{ ...layer, counts: [1, 2] }] }), /profile\.json, layer 2: expected counts to add up/],
      [JSON.stringify({ ...loaded.toJSON(), format: "esft-experts" }), /profile\.json.*format/],
      ["{", /profile\.json/],
    ] as const) {
      writeFileSync(path, text);
      await expect(Profile.load(path)).rejects.toMatchObject({ code: "ERR_CONFIG", message: expect.stringMatching(message) as string });
    }
  });
});
