// The built-in page in a real browser: choice of a model, streaming, stop, errors, keyboard, both colour schemes, nothing from elsewhere.
// Skipped where there is no Chromium (package chromium of Debian; or its path in ESFT_CHROMIUM). No GPU.
// Alone: npx vitest run test/serve/page.test.ts

import path from "node:path";
import { chromium } from "playwright-core";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { page as builtIn } from "../../lib/serve/page.ts";
import { findChromium } from "../support/chromium.ts";
import { FakeModels, serveModels, until, words } from "./support.ts";
import type { Served } from "./support.ts";

const executablePath = findChromium();
if (executablePath === null) console.warn("test/serve/page.test.ts: no Chromium on this system; the page is not tried in a browser");

it("the page asks for nothing from elsewhere", () => {
  expect(builtIn.html).not.toMatch(/https?:\/\/|src=|@import|url\(/);
  expect(builtIn.policy).toContain("default-src 'none'");
});

describe.skipIf(executablePath === null)("the page in a browser", () => {
  const models = new FakeModels();
  let served: Served;
  let browser: Browser;
  let page: Page;
  const problems: string[] = [];
  const foreign: string[] = [];

  beforeAll(async () => {
    served = await serveModels(models, { token: "open-sesame" });
    browser = await chromium.launch({ executablePath: executablePath!, args: ["--no-sandbox"] });
    page = await browser.newPage();
    page.on("pageerror", (error) => problems.push(error.message));
    page.on("console", (message) => {
      if (message.type() === "error" && !message.text().includes("401")) problems.push(message.text());
    });
    page.on("request", (request) => {
      if (!request.url().startsWith(served.url) && !request.url().startsWith("data:")) foreign.push(request.url());
    });
    await page.goto(served.url);
  });
  afterAll(async () => {
    await browser?.close();
    await served?.close();
  });

  const last = (kind: string) => page.locator(`article.${kind}`).last();

  it("asks for the token that the server wants, and lists the models", async () => {
    await expect.poll(() => last("error").textContent()).toContain("no bearer token was given");
    expect(await page.locator("#settings").getAttribute("open")).not.toBeNull();
    await page.getByLabel("Token of the server").fill("open-sesame");
    await page.keyboard.press("Tab");
    await expect.poll(() => page.locator("#model option").allTextContents()).toEqual(["fake (base)", "other"]);
  });

  it("shows an answer while it comes", async () => {
    models.script = words(["Well, ", "<b>one</b>", "\n", "two"], 150);
    await page.getByLabel("Model or adapter").selectOption("other");
    await page.getByLabel("Message").fill("What is there?");
    await page.keyboard.press("Enter");
    await expect.poll(() => last("assistant").locator("span").textContent(), { interval: 10 }).toBe("Well, ");
    await expect.poll(() => last("assistant").locator("span").textContent()).toBe("Well, <b>one</b>\ntwo");
    expect(await last("assistant").locator("small").textContent()).toBe("other");
    expect(await page.locator("article b").count()).toBe(0);
    await expect.poll(() => page.locator("#send").isEnabled()).toBe(true);
  });

  it("Shift+Enter is a new line, Escape stops the answer and the sequence", async () => {
    models.script = words(
      Array.from({ length: 500 }, (_, i) => `${i} `),
      20,
    );
    await page.getByLabel("Message").fill("Count");
    await page.keyboard.press("Shift+Enter");
    await page.keyboard.type("please");
    await page.keyboard.press("Enter");
    await expect.poll(() => last("user").locator("span").textContent()).toBe("Count\nplease");
    await expect.poll(() => last("assistant").locator("span").textContent()).toContain("3 ");
    await page.keyboard.press("Escape");
    await until(() => models.active === 0);
    expect(await last("assistant").locator("small").textContent()).toBe("other (stopped)");
    expect(await page.evaluate("document.activeElement.id")).toBe("text");
  });

  it("says what the server refused, and gives the message back", async () => {
    const before = await page.locator("article.user").count();
    await page.getByLabel("Most tokens").fill("5000");
    await page.getByLabel("Message").fill("Too much");
    await page.getByRole("button", { name: "Send" }).click();
    await expect.poll(() => last("error").textContent()).toContain("1000 positions");
    expect(await last("error").getAttribute("role")).toBe("alert");
    expect(await page.getByLabel("Message").inputValue()).toBe("Too much");
    expect(await page.locator("article.user").count()).toBe(before);
    await page.getByLabel("Most tokens").fill("50");
  });

  it("begins a new chat", async () => {
    await page.getByRole("button", { name: "New chat" }).click();
    expect(await page.locator("article").count()).toBe(0);
    models.script = words(["fresh"]);
    await page.getByLabel("Message").fill("Again");
    await page.keyboard.press("Enter");
    await expect.poll(() => last("assistant").locator("span").textContent()).toBe("fresh");
  });

  it("is light or dark as the system is, and works with the keyboard alone", async () => {
    const back = () => page.evaluate("getComputedStyle(document.body).backgroundColor");
    await page.emulateMedia({ colorScheme: "light" });
    expect(await back()).toBe("rgb(255, 255, 255)");
    if (process.env["ESFT_SCREENSHOTS"]) await page.screenshot({ path: path.join(process.env["ESFT_SCREENSHOTS"], "light.png") });
    await page.emulateMedia({ colorScheme: "dark" });
    expect(await back()).toBe("rgb(23, 23, 26)");
    if (process.env["ESFT_SCREENSHOTS"]) await page.screenshot({ path: path.join(process.env["ESFT_SCREENSHOTS"], "dark.png") });
    await page.evaluate("document.activeElement.blur()");
    const met: unknown[] = [];
    for (let i = 0; i < 12; i++) {
      await page.keyboard.press("Tab");
      met.push(await page.evaluate("document.activeElement.id || document.activeElement.tagName"));
    }
    for (const id of ["model", "new", "SUMMARY", "temperature", "tokens", "seed", "token", "log", "text", "send"])
      expect(met).toContain(id);
  });

  it("met no error and nothing from elsewhere", () => {
    expect(problems).toEqual(["Failed to load resource: the server responded with a status of 400 (Bad Request)"]);
    expect(foreign).toEqual([]);
  });
});
