// Pages of reports in a real browser: no error, charts with marks, tables that equal the JSON, both colour schemes and the switch between
// them, no script of a name runs. Skipped where there is no Chromium (package chromium of Debian; or its path in ESFT_CHROMIUM). No GPU.
// Alone: npx vitest run test/report/browser.test.ts

import { writeFileSync } from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { comparisonReport } from "../../lib/report/comparison.ts";
import { pageOf } from "../../lib/report/page.ts";
import { profileReport } from "../../lib/report/profiles.ts";
import { makeReport } from "../../lib/report/report.ts";
import { sample } from "../compare/sample.ts";
import { findChromium } from "../support/chromium.ts";
import { tempDir } from "../support/fixture.ts";
import { HOSTILE, profileOf, runEvents, tableOfData, writeRun } from "./support.ts";
import type { PageFigure } from "./support.ts";

const executablePath = findChromium();
if (executablePath === null) console.warn("test/report/browser.test.ts: no Chromium on this system; reports are not opened in a browser");

describe.skipIf(executablePath === null)("a report in a browser", () => {
  const dir = tempDir();
  const problems: string[] = [];
  let browser: Browser;
  let page: Page;

  beforeAll(async () => {
    browser = await chromium.launch({ executablePath: executablePath!, args: ["--no-sandbox"] });
    page = await browser.newPage({ colorScheme: "light" });
    page.on("pageerror", (error) => problems.push(error.message));
    page.on("console", (message) => {
      if (message.type() === "error" || message.type() === "warning") problems.push(message.text());
    });
    page.on("request", (request) => {
      if (!/^(?:file|data):/.test(request.url())) problems.push(`asks for ${request.url()}`);
    });
  });
  afterAll(() => browser?.close());

  async function open(name: string, text: string): Promise<void> {
    const file = path.join(dir, `${name}.html`);
    writeFileSync(file, text);
    await page.goto(pathToFileURL(file).href);
  }

  /** Of the page as the browser has it: the JSON, and the texts of every figure's table. */
  function read(): Promise<{ figures: PageFigure[]; tables: (string[][] | null)[] }> {
    return page.evaluate(`(() => {
      const { figures } = JSON.parse(document.getElementById("data").textContent);
      const tables = figures.map(({ id }) => {
        const table = document.querySelector("#" + id + " table");
        return table && [...table.querySelectorAll("tr")].map((row) => [...row.children].map((cell) => cell.textContent));
      });
      return { figures, tables };
    })()`);
  }

  const text = HOSTILE.slice(0, 3).join(" ");
  it.each([
    ["run", () => makeReport(writeRun(path.join(dir, "run"), runEvents(text)), { title: text })],
    ["profiles", () => pageOf(profileReport([text, "b"].map((file) => ({ file: file.replaceAll("/", "_"), profile: profileOf([[40, 30, 20, 10], [5, 5, 5, 85]]) }))))], // prettier-ignore
    ["comparison", () => pageOf(comparisonReport(JSON.parse(JSON.stringify(sample).replaceAll('"esft"', JSON.stringify(text))) as typeof sample))], // prettier-ignore
  ])("%s: charts with marks, tables that equal the JSON, no error", async (name, make) => {
    await open(name, await make());
    const { figures, tables } = await read();
    expect(figures.length).toBeGreaterThan(3);
    for (const [i, figure] of figures.entries()) expect([figure.id, tables[i]]).toEqual([figure.id, tableOfData(figure)]);
    const marks = await page.locator('.chart > svg[role="img"]').evaluateAll((all) =>
      all.map((svg) => {
        const { width, height } = svg.getBoundingClientRect();
        return width > 100 && height > 50 && svg.querySelectorAll("path").length > 0;
      }),
    );
    expect(marks.length).toBeGreaterThan(2);
    expect(marks).toEqual(marks.map(() => true));
    expect(await page.evaluate(`"broken" in window`)).toBe(false);
    expect(await page.locator("main img, main script").count()).toBe(0);
    expect(problems).toEqual([]);
  });

  it("is dark where the system is, and as the reader chooses, by keyboard too", async () => {
    await open("theme", await makeReport(writeRun(path.join(dir, "theme"))));
    const seen = (): Promise<string[]> =>
      page.evaluate(
        `[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.querySelector("#loss .line path")).stroke]`,
      );
    const light = await seen();
    await page.emulateMedia({ colorScheme: "dark" });
    const dark = await seen();
    expect(dark[0]).not.toBe(light[0]);
    expect(dark[1]).not.toBe(light[1]);
    await page.getByRole("button", { name: "Light" }).focus();
    await page.keyboard.press("Enter");
    expect(await seen()).toEqual(light);
    expect(await page.getByRole("button", { name: "Light" }).getAttribute("aria-pressed")).toBe("true");
    await page.getByRole("button", { name: "Dark" }).click();
    await page.emulateMedia({ colorScheme: "light" });
    expect(await seen()).toEqual(dark);
    await page.emulateMedia({ media: "print" });
    expect(await seen()).toEqual(light);
    await page.emulateMedia({ media: "screen" });
    await page.getByRole("button", { name: "Auto" }).click();
    expect(await seen()).toEqual(light);
  });

  it("tables are opened and read by keyboard, their numbers aligned", async () => {
    const details = page.locator("#lr details");
    await details.locator("summary").focus();
    const before = await details.getAttribute("open");
    await page.keyboard.press("Enter");
    expect(await details.getAttribute("open")).not.toBe(before);
    const style = await page.evaluate(
      `(({ textAlign, fontVariantNumeric }) => [textAlign, fontVariantNumeric])(getComputedStyle(document.querySelector("#lr td.number")))`,
    );
    expect(style).toEqual(["right", "tabular-nums"]);
    expect(await page.locator("#lr .table").getAttribute("tabindex")).toBe("0");
    expect(problems).toEqual([]);
  });
});
