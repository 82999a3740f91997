// Pages of reports as text: tables are the JSON beside them, charts are drawn, nothing is asked for from elsewhere, and no name becomes
// markup. No GPU, no addon. Alone: npx vitest run test/report/page.test.ts

import path from "node:path";
import { describe, expect, it } from "vitest";
import { writeComparison } from "../../lib/compare/result.ts";
import { comparisonReport } from "../../lib/report/comparison.ts";
import { shown } from "../../lib/report/content.ts";
import { escaped, Markup, markup, scriptJson } from "../../lib/report/html.ts";
import { pageOf, policyOf } from "../../lib/report/page.ts";
import { profileReport } from "../../lib/report/profiles.ts";
import { makeReport } from "../../lib/report/report.ts";
import { sample } from "../compare/sample.ts";
import { tempDir } from "../support/fixture.ts";
import { dataOf, HOSTILE, profileOf, runEvents, tableOf, tableOfData, writeRun } from "./support.ts";

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

it("a comparison is read from its directory or its file", async () => {
  const at = path.join(dir, "comparison");
  await import("node:fs").then((fs) => fs.mkdirSync(at));
  await writeComparison(at, sample);
  expect(await makeReport(at)).toBe(await makeReport([path.join(at, "compare.json")]));
});
