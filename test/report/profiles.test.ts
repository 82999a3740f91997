// Reports of profiles: affinity, cumulative mass and overlap by hand, selections that are marked. No GPU, no addon.
// Alone: npx vitest run test/report/profiles.test.ts

import path from "node:path";
import { describe, expect, it } from "vitest";
import { ExpertSet } from "../../lib/experts/expert_set.ts";
import type { Figure, Report } from "../../lib/report/content.ts";
import { profileReport } from "../../lib/report/profiles.ts";
import { readReport } from "../../lib/report/report.ts";
import { tempDir } from "../support/fixture.ts";
import { profileOf, writeRun } from "./support.ts";

const dir = tempDir();
const figureOf = (report: Report, id: string): Figure => report.sections.flatMap((s) => s.figures).find((f) => f.id === id)!;
const law = { file: "x/law.profile.json", profile: profileOf([[40, 30, 20, 10], [10, 10, 20, 60]]) }; // prettier-ignore
const intent = { file: "y/intent.json", profile: profileOf([[30, 40, 10, 20], [60, 20, 10, 10]]) }; // prettier-ignore

describe("one profile", () => {
  const report = profileReport([law], { p: 0.5 });

  it("has the score of every expert, and those that p selects", () => {
    expect(figureOf(report, "affinity-1").table.rows).toEqual([
      { layer: 0, e0: 0.4, e1: 0.3, e2: 0.2, e3: 0.1, selected: "0 1" },
      { layer: 1, e0: 0.1, e1: 0.1, e2: 0.2, e3: 0.6, selected: "3" },
    ]);
  });

  it("has the mean over layers of what the best hold", () => {
    const rows = figureOf(report, "mass").table.rows.map((r) => [r["n"], Number(r["s0"]).toFixed(6)]);
    expect(rows).toEqual([[0, "0.000000"], [1, "0.500000"], [2, "0.750000"], [3, "0.900000"], [4, "1.000000"]]); // prettier-ignore
    expect(figureOf(report, "per-layer").table.rows).toEqual([{ layer: 0, s0: 2 }, { layer: 1, s0: 1 }]); // prettier-ignore
  });

  it("says what is selected and covered", () => {
    expect(report.title).toBe("Experts of law");
    expect(report.facts.map((f) => f.value)).toEqual(["3 of 8", "65.0 %", "65.0 %", "50"]);
  });

  it("marks a selection in place of p", () => {
    const experts = new ExpertSet({ layers: [[0, { ranked: [3, 2] }]] });
    expect(figureOf(profileReport([law], { experts }), "affinity-1").table.rows.map((r) => r["selected"])).toEqual(["3 2", ""]);
    const other = new ExpertSet({ layers: [[0, { ranked: [4] }]] });
    expect(() => profileReport([law], { experts: other })).toThrow(/expected expert ids below 4, found 4/);
  });
});

it("of gate weights marks what esft select selects, and has no line at p, which is no share there", () => {
  // a token's gate weights sum to 1/2: p = 0.4 is four fifths of a layer
  const report = profileReport([law], { score: "gate", p: 0.4 });
  const { rows } = figureOf(report, "affinity-1").table;
  expect(rows.map((r) => r["selected"])).toEqual(["0 1 2", "3 2"]);
  expect(rows.map((r) => r["selected"])).toEqual([0, 1].map((l) => law.profile.select({ score: "gate", p: 0.4 }).layers.get(l)!.ranked.join(" "))); // prettier-ignore
  expect([rows[0]!["e0"], rows[1]!["e3"]]).toEqual([expect.closeTo(0.4), expect.closeTo(0.6)]);
  const mass = (score: "gate" | "token"): Figure => figureOf(profileReport([law], { score, p: 0.4 }), "mass");
  expect([mass("token").about, JSON.stringify(mass("token").chart)]).toEqual([expect.stringContaining("The dashed line is p"), expect.stringContaining('"rule":0.4')]); // prettier-ignore
  expect([mass("gate").about, JSON.stringify(mass("gate").chart)]).toEqual([expect.not.stringContaining("dashed"), expect.not.stringContaining('"rule":0.4')]); // prettier-ignore
});

it("names of profiles are distinct, whatever the files are called", () => {
  const named = (...files: string[]) => figureOf(profileReport(files.map((file) => ({ ...law, file }))), "shared-top").table.rows.map((r) => r["name"]); // prettier-ignore
  expect(named("x/a.json", "y/a.json", "a (2).json")).toEqual(["a", "a (3)", "a (2)"]);
  expect(named("a (2).json", "x/a.json", "y/a.json", "z/a.json")).toEqual(["a (2)", "a", "a (3)", "a (4)"]);
});

describe("several profiles", () => {
  const report = profileReport([law, intent, law], { p: 0.5 });

  it("have the experts that they share, mean over layers", () => {
    // best two: law {0,1} {3,2}, intent {1,0} {0,1}
    expect(figureOf(report, "shared-top").table.rows).toEqual([
      { name: "law", s0: 2, s1: 1, s2: 2 },
      { name: "intent", s0: 1, s1: 2, s2: 1 },
      { name: "law (2)", s0: 2, s1: 1, s2: 2 },
    ]);
    // selected at p = 0.5: law {0,1} {3}, intent {1,0} {0}
    expect(figureOf(report, "shared-selected").table.rows[0]).toEqual({ name: "law", s0: 1.5, s1: 1, s2: 1.5 });
  });

  it("must be of one model, and have one selection each", () => {
    const other = { file: "z.json", profile: profileOf([[1, 1, 1, 1]]) };
    expect(() => profileReport([law, other])).toThrow(
      /z\.json: expected a profile of the model that x\/law\.profile\.json was measured on/,
    );
    const experts = new ExpertSet({ layers: [[0, { ranked: [1] }]] });
    expect(() => profileReport([law, intent], { experts })).toThrow(/marks the selection of one profile, found 2/);
  });
});

it("files are read by what they are", async () => {
  const [profile, experts] = [path.join(dir, "law.profile.json"), path.join(dir, "law.experts.json")];
  await law.profile.save(profile);
  await law.profile.select({ p: 0.2, groupSize: 2 }).save(experts);
  expect((await readReport(profile)).title).toBe("Experts of law");
  expect((await readReport([profile], { experts })).facts[0]!.note).toBe(
    "50.0 %, selected: token scores up to p = 0.2, in groups of 2 neighbours",
  );
  await expect(readReport(experts)).rejects.toThrow(/law\.experts\.json: expected a profile .*, found format "esft-experts"/);
  await expect(readReport([profile, writeRun(path.join(dir, "run"))])).rejects.toThrow(/found .* \(profile\) and .* \(run\)/);
  await expect(readReport(profile, { score: "gradient" })).rejects.toThrow(/gradient scores were not measured/);
  await expect(readReport(profile, { score: "best" as never })).rejects.toThrow(/expected score to be token, gate, gradient, found best/);
  await expect(readReport(profile, { p: 2 })).rejects.toThrow(/expected p in \(0, 1\], found 2/);
  await expect(readReport(profile, { p: 0.5, experts })).rejects.toThrow(/expected p or experts, found both/);
});
