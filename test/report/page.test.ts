// Pages of reports as text: tables are the JSON beside them, charts are drawn, nothing is asked for from elsewhere, and no name becomes
// markup. No GPU, no addon. Alone: npx vitest run test/report/page.test.ts

import { mkdirSync } from "node:fs";
import path from "node:path";
import { describe, expect, it } from "vitest";
import { writeComparison } from "../../lib/compare/result.ts";
import { ExpertSet } from "../../lib/experts/expert_set.ts";
import { comparisonReport } from "../../lib/report/comparison.ts";
import { shown } from "../../lib/report/content.ts";
import { escaped, Markup, markup, scriptJson } from "../../lib/report/html.ts";
import { pageOf, policyOf } from "../../lib/report/page.ts";
import { profileReport } from "../../lib/report/profiles.ts";
import { makeReport } from "../../lib/report/report.ts";
import { sample } from "../compare/sample.ts";
import { tempDir } from "../support/fixture.ts";
import { dataOf, HOSTILE, profileOf, runEvents, stepEvent, tableOf, tableOfData, writeRun } from "./support.ts";

const dir = tempDir();
const counts = [[40, 30, 20, 10], [5, 5, 5, 85]]; // prettier-ignore

/** One page of each kind, with `name` wherever a user names something. */
async function pages(name: string): Promise<Record<string, string>> {
  const run = writeRun(path.join(dir, "run"), runEvents(name), { [`x${name}`]: name, model: `/models/${name}` });
  const two = [name, `${name}2`].map((file) => ({
    file: path.join(dir, `${file.replaceAll("/", "_")}.json`),
    profile: profileOf(counts, name),
  }));
  const text = JSON.stringify(sample)
    .replaceAll('"esft"', JSON.stringify(name))
    .replaceAll('"law"', JSON.stringify(`law ${name}`));
  return {
    run: await makeReport(run, { title: name }),
    profiles: await pageOf(profileReport(two)),
    comparison: await pageOf(comparisonReport(JSON.parse(text) as typeof sample)),
  };
}

describe("texts and markup", () => {
  it("what is put into markup is text", () => {
    const [name, made] = ['<b a="1">&', markup`<i>${1}</i>`];
    expect(markup`<p title="${name}">${name}${made}${["a", made]}</p>`.text).toBe(
      '<p title="&lt;b a=&quot;1&quot;&gt;&amp;">&lt;b a=&quot;1&quot;&gt;&amp;<i>1</i>a<i>1</i></p>',
    );
    expect(escaped("it's")).toBe("it&#39;s");
    expect(new Markup("<b>").text).toBe("<b>");
  });

  it("JSON in a page holds nothing that a parser of HTML acts on, and is what went in", () => {
    for (const text of HOSTILE) {
      const json = scriptJson({ [text]: text }).text;
      expect(json).not.toMatch(/[<>&\u2028]/);
      expect(JSON.parse(json)).toEqual({ [text]: text });
    }
  });

  it.each([
    [null, {}, "–"],
    ["-1", {}, "-1"],
    [-0.12345, { digits: 2 }, "−0.12"],
    [1234567, { digits: 0 }, "1\u202f234\u202f567"],
    [-12345.5, { digits: 1 }, "−12\u202f345.5"],
    [1234.5, { digits: 1 }, "1234.5"],
    [0.00002, { significant: 4 }, "2e−5"],
    [0.0000215, { significant: 4 }, "2.15e−5"],
    [0, { significant: 4 }, "0"],
    [12.3456, { significant: 3 }, "12.3"],
    [0.5, {}, "0.5"],
  ])("%j with %j is shown as %s", (cell, column, text) => {
    expect(shown(cell, { key: "k", label: "l", ...column })).toBe(text);
  });
});

describe("every page", async () => {
  const plain = await pages("plain");
  const hostile = await Promise.all(HOSTILE.map(pages));
  const all = [plain, ...hostile].flatMap((p, i) => Object.entries(p).map(([kind, page]) => ({ name: `${kind} ${i}`, page })));

  it.each(all)("$name: tables are what the JSON says", ({ page }) => {
    const { figures } = dataOf(page);
    expect(figures.length).toBeGreaterThan(3);
    for (const figure of figures) expect([figure.id, tableOf(page, figure.id)]).toEqual([figure.id, tableOfData(figure)]);
  });

  it.each(all)("$name: charts are drawn, with a name for readers", ({ page }) => {
    const charts = [...page.matchAll(/<div class="chart.*?<\/div>/gs)].map(([chart]) => chart);
    expect(charts.length).toBeGreaterThan(2);
    for (const chart of charts) {
      expect(chart).toMatch(/<svg role="img" aria-label="[^"]{20,}" /);
      expect(chart).toMatch(/<g class="(line|rect|symbol)"[^>]*><path /);
      expect(chart).not.toMatch(/NaN|undefined|Infinity|style=|href/);
    }
  });

  it.each(all)("$name: asks for nothing from elsewhere, and nothing runs that is not its own", ({ page }) => {
    const head = page.slice(0, page.indexOf("</head>"));
    expect(head).toContain(`content="${escaped(policyOf([script(page)], false))}"`);
    expect(head).toContain("default-src &#39;none&#39;");
    expect(page.match(/<script/g)).toHaveLength(2);
    expect(page.replaceAll("http://www.w3.org/2000/svg", "")).not.toMatch(
      /<(?:img|iframe|object|embed|base|form)|<link (?!rel="icon" href="data:,")|@import|url\(/,
    );
  });

  it.each(all)("$name: is below 2 MB", ({ page }) => expect(Buffer.byteLength(page)).toBeLessThan(2e6));
});

/** The text of the script that a page runs. */
const script = (page: string): string => page.slice(page.lastIndexOf("<script>") + 8, page.lastIndexOf("</script>"));

describe("a page of little, or of what is odd", () => {
  const [start] = runEvents();
  const evaluated = { type: "eval", step: 0, best: true, loss: 3.25, accuracy: 0, supervised: 40 };
  const empty = { loss: null, accuracy: null, gradNorm: null, tokensPerSecond: null, coverage: null };
  let made = 0;
  it.each([
    ["one step", [start, stepEvent(1)]],
    ["two steps and nothing held out", [start, stepEvent(1), stepEvent(2)]],
    ["an evaluation alone", [start, evaluated]],
    ["an evaluation and a step", [start, evaluated, stepEvent(1)]],
    ["nothing finite", [start, { ...evaluated, loss: null }, stepEvent(1, empty), stepEvent(2, empty)]],
    ["one finite step of two", [start, stepEvent(1, empty), stepEvent(2)]],
    [
      "zeros",
      [start, ...[1, 2, 3].map((n) => stepEvent(n, { loss: 0, accuracy: 0, gradNorm: 0, lr: 0, tokensPerSecond: 0, coverage: 0 }))],
    ],
    [
      "what is large, small and below 0",
      [start, ...[1, 2, 3].map((n) => stepEvent(n, { loss: -1e9 * n, gradNorm: 10 ** (20 * n), lr: 1e-30 * n }))],
    ],
    ["a balance loss", [start, stepEvent(1, { balanceLoss: 0.5 }), stepEvent(2, { balanceLoss: 0.25 })]],
  ])("a run of %s", async (_, events) => {
    const page = await makeReport(writeRun(path.join(dir, `little-${made++}`), events as object[]));
    expect(page.slice(0, page.lastIndexOf("<script>"))).not.toMatch(/NaN|undefined|Infinity/);
    for (const figure of dataOf(page).figures) expect(tableOf(page, figure.id)).toEqual(tableOfData(figure));
  });

  it.each([
    ["nothing selected", [[40, 30, 20, 10]], new ExpertSet({ layers: [[0, { ranked: [] }]], sharedExperts: true })],
    ["one expert that is used", [[0, 0, 100, 100]], undefined],
    ["all selected", [[40, 30, 20, 10]], new ExpertSet({ layers: [[0, { ranked: [0, 1, 2, 3] }]] })],
  ] as const)("a profile with %s", async (_, of, experts) => {
    const page = await pageOf(profileReport([{ file: "p.json", profile: profileOf(of) }], experts ? { experts } : {}));
    expect(page.slice(0, page.lastIndexOf("<script>"))).not.toMatch(/NaN|undefined|Infinity/);
    expect(page.match(/<svg role="img"/g)).toHaveLength(3);
  });

  it("more profiles than there are colours", async () => {
    const page = await pageOf(profileReport(Array.from({ length: 9 }, (_, i) => ({ file: `${i}.json`, profile: profileOf(counts) }))));
    expect(page).toContain("The chart shows the first 6 of 9; the table has all.");
    expect(tableOf(page, "mass")![0]).toHaveLength(10);
  });

  it("a comparison of one seed, one method, no time and no difference", async () => {
    const one = structuredClone(sample);
    one.result.seeds = [1];
    one.result.methods = one.result.methods.slice(0, 1);
    one.result.cells = one.result.cells.filter((c) => c.seed === 1 && c.method === "esft");
    one.result.choices = one.result.choices.slice(0, 1);
    one.result.differences = [];
    one.times.cells = {};
    const page = await pageOf(comparisonReport(one));
    expect(page.slice(0, page.lastIndexOf("<script>"))).not.toMatch(/NaN|undefined|Infinity/);
    expect(page.match(/<svg role="img"/g)).toHaveLength(6);
  });

  it("differences of one pair, and of none that was chosen", async () => {
    const pair = structuredClone(sample);
    pair.result.differences = [{ ...pair.result.differences[0]!, sd: null, n: 1, low: null, high: null }];
    expect(await pageOf(comparisonReport(pair))).toContain("one pair");
    for (const c of pair.result.cells) c.diverged = "losses are not finite";
    for (const c of pair.result.choices) for (const t of c.candidates) t.validationLoss = null;
    expect(await pageOf(comparisonReport(pair))).toContain("8 of 8 runs diverged");
  });
});

it("a comparison is read from its directory or its file", async () => {
  const at = path.join(dir, "comparison");
  mkdirSync(at);
  await writeComparison(at, sample);
  expect(await makeReport(at)).toBe(await makeReport([path.join(at, "compare.json")]));
});
