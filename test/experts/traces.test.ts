// Import of official routing logs: a tiny synthetic trace against a plain recount, hostile lines, and (where ../shared has
// them) the released logs against the released scores and configs. No GPU. Run alone: npx vitest run test/experts/traces.test.ts
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { describe, expect, it } from "vitest";
import { ConfigError, DataError, IoError } from "../../lib/errors.ts";
import { diagnoseSelection, normalizedScores } from "../../lib/experts/diagnose.ts";
import { ExpertSet } from "../../lib/experts/expert_set.ts";
import type { Profile } from "../../lib/experts/profile.ts";
import { rank, roundHalfEven4 } from "../../lib/experts/scores.ts";
import { readTraces } from "../../lib/experts/traces.ts";
import { tempDir } from "../support/fixture.ts";

const root = tempDir();
const tiny = join(import.meta.dirname, "../fixtures/traces");
const data = join(process.env.ESFT_SHARED ?? join(import.meta.dirname, "../../../shared"), "data/esft");

function traceDir(files: Record<string, string>): string {
  const dir = mkdtempSync(join(root, "t-"));
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(join(dir, name, ".."), { recursive: true });
    writeFileSync(join(dir, name), text);
  }
  return dir;
}
const line = (ids: number[], weights = ids.map(() => 0.25)) => `${ids.join("\t")}\t\t${weights.join("\t")}\n`;

describe("readTraces", () => {
  it("recounts a tiny trace, token- and sequence-weighted", async () => {
    const profile = await readTraces(tiny);
    expect([profile.data.topK, profile.experts, profile.tokens, profile.data.sequences]).toEqual([2, 8, 120, 8]);
    for (const layer of profile.layers) {
      const rows = readFileSync(join(tiny, `expert_weights_${layer}.txt`), "utf8").trimEnd().split("\n").map((l) => l.split("\t\t").map((h) => h.split("\t").map(Number))) as [number[], number[]][]; // prettier-ignore
      for (let e = 0; e < 8; e++) {
        const count = rows.flatMap(([ids]) => ids).filter((i) => i === e).length;
        const gate = rows.reduce((s, [ids, w]) => s + ids.reduce((a, id, i) => a + (id === e ? w[i]! : 0), 0), 0);
        expect(profile.scores(layer, { score: "token" })[e]).toBeCloseTo(count / 240, 14);
        expect(profile.scores(layer, { score: "gate" })[e]).toBeCloseTo(gate / 120, 12);
        const mean = rows.reduce((s, [ids]) => s + ids.filter((i) => i === e).length / ids.length, 0) / rows.length;
        expect(profile.scores(layer, { score: "token", average: "sequences" })[e]).toBeCloseTo(mean, 14);
        const meanGate =
          rows.reduce((s, [ids, w]) => s + ids.reduce((a, id, i) => a + (id === e ? w[i]! : 0), 0) / (ids.length / 2), 0) / rows.length;
        expect(profile.scores(layer, { score: "gate", average: "sequences" })[e]).toBeCloseTo(meanGate, 12);
      }
    }
  });

  it("reads rank folders, CRLF and a last line without newline as one", async () => {
    const text = readFileSync(join(tiny, "expert_weights_1.txt"), "utf8").split("\n").slice(0, 4);
    const split = traceDir({
      "rank_0/expert_weights_1.txt": `${text[0]}\r\n${text[1]}`,
      "rank_1/expert_weights_1.txt": `${text[2]}\n${text[3]}\n`,
    });
    const whole = traceDir({ "expert_weights_1.txt": `${text.join("\n")}\n` });
    expect((await readTraces(split, { topK: 2 })).data.layers).toEqual((await readTraces(whole, { topK: 2 })).data.layers);
  });

  it("takes the files of a folder by their whole name, else those of its ranks in order", async () => {
    const odd = line([5, 6, 7]); // refused with topK 2
    const names = ["expert_weights_1.txt.bak", "old_expert_weights_1.txt", "expert_weights_01.txt", "expert_weights_1234567.txt", "expert_weights_1_txt", "expert_weights_x.txt", "rank_0/expert_weights_1.txt"]; // prettier-ignore
    const others = Object.fromEntries(names.map((name) => [name, odd]));
    const own = { "expert_weights_10.txt": line([1, 2]), "expert_weights_2.txt": line([3, 2]), "expert_weights_0.txt": line([0, 3]) };
    const { data } = await readTraces(traceDir({ ...own, ...others }), { topK: 2, experts: 4 });
    expect(data.layers.map((l) => [l.layer, l.counts])).toEqual([
      [0, [1, 0, 0, 1]],
      [2, [0, 0, 1, 1]],
      [10, [0, 1, 1, 0]],
    ]);
    // Sums are taken in the order of the ranks' numbers, which their rounding shows.
    const gates = async (...weights: number[]): Promise<number> => {
      const ranks = weights.map((w, i) => [`rank_${[2, 10, 1][i]}/expert_weights_0.txt`, `0\t\t${w}\n`]);
      const stray = ["rank_0.bak", "my_rank_0", "rank_x", "rank_"].map((name) => [`${name}/expert_weights_0.txt`, odd]);
      const found = await readTraces(traceDir(Object.fromEntries([...ranks, ...stray]) as Record<string, string>), { topK: 1, experts: 1 });
      return found.layer(0).gateSums[0]!;
    };
    expect(await gates(1, 1, 2 ** 53)).toBe(2 ** 53); // of rank 1: what 2 and 10 add is lost
    expect(await gates(1, 2 ** 53, 1)).toBe(2 ** 53 + 2);
  });

  it("reads files longer than its chunk, with lines across it", async () => {
    const zeros = "0".repeat(120);
    const long = Array.from({ length: 4800 }, (_, i) => `${i % 8}\t${(i + 1) % 8}\t\t0.25${zeros}\t0.5${zeros}\n`);
    const { data } = await readTraces(traceDir({ "expert_weights_0.txt": long.join("") }), { topK: 2, experts: 8 });
    expect(long.join("").length).toBeGreaterThan(2 ** 20);
    expect([data.sequences, data.layers]).toMatchObject([
      4800,
      [{ tokens: 4800, counts: Array(8).fill(1200), gateSums: Array(8).fill(450) }],
    ]);
    const cut = [...long.slice(0, 4799), "x\n"].join("");
    await expect(readTraces(traceDir({ "expert_weights_0.txt": cut }))).rejects.toThrow(/:4800: /);
  });

  it("takes ids and weights at their limits", async () => {
    const text = "3\t00000\t\t1.\t2e-3\n1\t2\t\t0\t12.75e1\n1\t2\t\t1e-10\t0\n";
    const read = (ids: string) => readTraces(traceDir({ "expert_weights_3.txt": ids }), { topK: 2, experts: 4 });
    expect((await read(text)).layer(3).gateSums).toEqual([0.002, 1e-10, 127.5, 1]);
    await expect(read(line([65_535, 0]))).rejects.toThrow(/expected counts to add up/); // an id, though not of these four
  });

  const hostile: [string, string, RegExp][] = [
    ["no weights", "1\t2\n", /:1: expected expert ids, two tabs, gate weights/],
    ["two separators", "1\t2\t\t.5\t\t.5\n", /more than one pair/],
    ["blank line", `${line([1, 2])}\n${line([1, 2])}`, /:2: expected expert ids/],
    ["negative id", "-1\t2\t\t0.5\t0.5\n", /expected expert ids from 0 to 65535, found "-1"/],
    ["fractional id", "1.5\t2\t\t0.5\t0.5\n", /found "1.5"/],
    ["huge id", "99999\t2\t\t0.5\t0.5\n", /found "99999"/],
    ["empty id", "1\t\t\t0.5\n", /more than one|expected gate weights|expected expert ids/],
    ["word as weight", "1\t2\t\t0.5\tx\n", /expected gate weights >= 0, found "x"/],
    ["negative weight", "1\t2\t\t0.5\t-0.1\n", /found "-0.1"/],
    ["nan weight", "1\t2\t\t0.5\tnan\n", /found "nan"/],
    ["overflowing weight", "1\t2\t\t0.5\t1e999\n", /found "1e999"/],
    ["fewer weights", "1\t2\t\t0.5\n", /found 2 ids and 1 weights/],
    ["not a multiple of topK", line([1, 2, 3]), /multiple of topK = 2 expert ids, found 3/],
    ["expert twice in a token", line([1, 2, 3, 3]), /found expert 3 twice in token 1/],
    ["empty file", "", /at least one line/],
    ["id beyond the limit", "65536\t2\t\t0.5\t0.5\n", /from 0 to 65535, found "65536"/],
    ["id with a word after it", "1x\t2\t\t0.5\t0.5\n", /found "1x"/],
    ["id with a word before it", "x1\t2\t\t0.5\t0.5\n", /found "x1"/],
    ["endless id", `${"1".repeat(50)}\t2\t\t0.5\t0.5\n`, /found "1{40}"$/],
    ["endless weight", `1\t2\t\t0.5\t${"x".repeat(50)}\n`, /found "x{40}"$/],
    ["weight with a word after it", "1\t2\t\t0.5\t1x\n", /found "1x"/],
    ["weight with a word before it", "1\t2\t\t0.5\tx1\n", /found "x1"/],
    ["weight without digits", "1\t2\t\t0.5\t.5\n", /found ".5"/],
    ["no ids", "\t\t0.5\t0.5\n", /no pair of tabs between two lists/],
    ["carriage return within", "1\t2\r\t\t0.5\t0.5\n", /found "2\\r"/],
  ];
  it.each(hostile)("refuses: %s", async (_, text, message) => {
    const error = await readTraces(traceDir({ "expert_weights_0.txt": text }), { topK: 2, experts: 8 }).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(DataError);
    expect((error as Error).message).toMatch(message);
    expect((error as Error).message).toContain("expert_weights_0.txt");
  });

  it("refuses incomplete layers, empty folders and bad options", async () => {
    await expect(
      readTraces(traceDir({ "expert_weights_1.txt": line([1, 2]) + line([3, 4]), "expert_weights_2.txt": line([1, 2]) }), {
        topK: 2,
        experts: 8,
      }),
    ).rejects.toThrow(/same tokens in every layer/);
    await expect(readTraces(traceDir({ "summary.json": "{}" }))).rejects.toThrow(/expected files expert_weights_<layer>.txt/);
    const absent = join(root, "absent");
    await expect(readTraces(absent)).rejects.toThrow(IoError);
    await expect(readTraces(absent)).rejects.toMatchObject({ message: `cannot open the traces ${absent}: no such file or directory`, where: { file: absent } }); // prettier-ignore
    for (const options of [{ topK: 0 }, { topK: 1.5 }, { experts: 0 }, { experts: 2.5 }]) {
      const [option] = Object.keys(options);
      await expect(readTraces(tiny, options)).rejects.toMatchObject({ code: "ERR_CONFIG", where: { option } });
    }
    const one = traceDir({ "expert_weights_0.txt": line([0]) });
    expect((await readTraces(one, { topK: 1, experts: 1 })).tokens).toBe(1);
    const { experts, data } = await readTraces(one, { topK: 1 });
    expect([experts, data.data, data.source]).toEqual([1, { name: basename(one) }, "traces"]);
    await expect(readTraces(traceDir({ "expert_weights_0.txt/x": "" }))).rejects.toThrow(/cannot read .*expert_weights_0\.txt: /);
    const lost = traceDir({ "rank_0/expert_weights_0.txt": line([1, 2]), "rank_1/expert_weights_0.txt": "" });
    await expect(readTraces(lost, { topK: 2 })).rejects.toThrow(/rank_1.expert_weights_0\.txt: expected at least one line, found an empty/);
    await expect(readTraces(tiny, { signal: AbortSignal.abort() })).rejects.toMatchObject({
      code: "ERR_ABORTED",
      message: expect.stringMatching(/^reading .*expert_weights_\d\.txt was aborted$/) as string,
    });
    await expect(readTraces(tiny, { topK: 2, experts: 4 })).rejects.toThrow(ConfigError);
  });

  it("does not guess topK or experts from too little", async () => {
    const few = traceDir({ "expert_weights_0.txt": line([0, 1, 2, 3, 4, 5]) });
    await expect(readTraces(few)).rejects.toThrow(/each token has 6 or \d experts; say which with topK/);
    expect((await readTraces(few, { topK: 3 })).tokens).toBe(2);
    const rows = Array.from({ length: 60 }, (_, i) => line([i % 5, (i + 1) % 5])).join("");
    const three = traceDir({
      "expert_weights_0.txt": line([6, 7]) + rows,
      "expert_weights_1.txt": line([0, 1]) + rows,
      "expert_weights_2.txt": line([0, 1]) + rows,
    });
    await expect(readTraces(three, { topK: 2 })).rejects.toThrow(/how many experts/);
    expect((await readTraces(three, { topK: 2, experts: 8 })).experts).toBe(8);
  });
});

const available = existsSync(join(data, "traces"));
const tasks = available ? readdirSync(join(data, "traces")).map((n) => n.replace(".tar.xz", "")) : ["(../shared/data/esft is absent)"];
const totals: Record<string, { token: number; gate: number; axis0: number }> = {
  intent: { token: 124, gate: 123, axis0: 52 },
  law: { token: 153, gate: 163, axis0: 61 },
  summary: { token: 128, gate: 193, axis0: 55 },
  translation: { token: 83, gate: 77, axis0: 38 },
};
describe.skipIf(!available).each(tasks)("released logs: %s", (task) => {
  let profile: Profile;
  it("give 6 of 64 experts and the released scores to 4 decimals", async () => {
    const dir = mkdtempSync(join(root, "r-"));
    execFileSync("tar", ["xJf", join(data, "traces", `${task}.tar.xz`), "-C", dir]);
    profile = await readTraces(join(dir, task));
    expect([profile.data.topK, profile.experts, profile.layers.length]).toEqual([6, 64, 26]);
    const released = JSON.parse(readFileSync(join(data, `configs/${task}.summary.json`), "utf8")) as Record<
      string,
      Record<string, Record<string, number>>
    >;
    for (const layer of profile.layers)
      for (const score of ["token", "gate"] as const)
        expect(Array.from(profile.scores(layer, { score }), roundHalfEven4)).toEqual(Object.values(released[`${score}_scores`]![layer]!));
  });

  it("give the released config byte for byte", async () => {
    const experts = profile.select({ score: "token", p: 0.2, compat: "esft-2024" });
    const path = join(data, `configs/${task}.json`);
    expect(experts.toEsftConfig()).toBe(readFileSync(path, "utf8"));
    expect((await ExpertSet.load(path)).equals(experts)).toBe(true);
  });

  it("give the published totals, and the detector recognises the axis-0 script", () => {
    const total = totals[task]!;
    expect(profile.select({ score: "token", p: 0.2 }).count).toBe(total.token);
    expect(profile.select({ score: "gate", p: 0.1 }).count).toBe(total.gate);
    const script = new ExpertSet({
      layers: [...normalizedScores(profile, "axis-0", "token")].map(([layer, scores]) => {
        const order = rank(scores);
        let n = 0;
        for (let sum = 0; sum < 0.2; n++) sum += scores[order[n]!]!;
        return [layer, { ranked: order.slice(0, n) }] as const;
      }),
    });
    expect(script.count).toBe(total.axis0);
    expect(diagnoseSelection(script, profile)).toMatchObject({
      verdict: "axis-0",
      hypotheses: [{ score: "token", layersExplained: 26 }, {}, {}, {}, {}, {}],
    });
    expect(diagnoseSelection(profile.select({ score: "token", p: 0.2, compat: "esft-2024" }), profile).verdict).toBe("esft-2024");
    expect(diagnoseSelection(profile.select({ score: "gate", p: 0.1 }), profile).verdict).not.toMatch(/axis|unknown/);
  });

  it("differ without the rounding, as known", () => {
    const rounded = profile.select({ score: "token", p: 0.2, compat: "esft-2024" });
    const exact = profile.select({ score: "token", p: 0.2 });
    if (task === "intent") expect([exact.ids(17), exact.ids(17).length]).not.toEqual([rounded.ids(17), exact.ids(17).length]);
    if (task === "law") expect(exact.layers.get(21)!.ranked).not.toEqual(rounded.layers.get(21)!.ranked);
  });
});
