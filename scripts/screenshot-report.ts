// Pictures of a report for README: its first screen, light and dark, by the system's Chromium.
//   npx tsx scripts/screenshot-report.ts report.html examples/miniature/report    report.light.png, report.dark.png
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { chromium } from "playwright-core";
import { findChromium } from "../test/support/chromium.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { width: { type: "string", default: "1100" }, height: { type: "string", default: "1000" } },
});
const [page, out] = positionals;
if (page === undefined || out === undefined)
  throw new Error("usage: screenshot-report.ts REPORT.html PICTURE [--width 1100] [--height 1000]");
const executablePath = findChromium();
if (executablePath === null) throw new Error("no Chromium: install the package chromium, or set ESFT_CHROMIUM to its path");
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
for (const colorScheme of ["light", "dark"] as const) {
  const shot = await browser.newPage({ colorScheme, viewport: { width: Number(values.width), height: Number(values.height) } });
  const errors: string[] = [];
  shot.on("console", (message) => {
    if (message.type() === "error") errors.push(message.text());
  });
  shot.on("pageerror", (error) => errors.push(error.message));
  const began = performance.now();
  await shot.goto(pathToFileURL(resolve(page)).href);
  await shot.waitForLoadState("load");
  const seconds = (performance.now() - began) / 1000;
  const file = `${out}.${colorScheme}.png`;
  await shot.screenshot({ path: file });
  console.log(
    `${file}: drawn in ${seconds.toFixed(2)} s, ${errors.length} console errors${errors.length > 0 ? `: ${errors.join("; ")}` : ""}`,
  );
}
await browser.close();
