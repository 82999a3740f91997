// esft watch: the page follows the files of a run, from an empty directory to its end; who may ask; the command as a process; the page in
// the system's Chromium, where there is one. No GPU, no addon. Alone: npx vitest run test/report/watch.test.ts

import { appendFileSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { request } from "node:http";
import path from "node:path";
import { chromium } from "playwright-core";
import { afterEach, describe, expect, it } from "vitest";
import { watchRun } from "../../lib/report/watch.ts";
import type { Watching } from "../../lib/report/watch.ts";
import { cli, spawnCli } from "../cli/support.ts";
import { findChromium } from "../support/chromium.ts";
import { tempDir } from "../support/fixture.ts";
import { dataOf, HOSTILE, runEvents, stepEvent, writeRun } from "./support.ts";

const dir = tempDir();
const at = (name: string): string => path.join(dir, name);
/** Pages are made a quarter of the time at most. */
const patient = { timeout: 20_000 };
let watching: Watching | null = null;
afterEach(async () => {
  await watching?.close();
  watching = null;
});

/** The status of a request under a Host header, which fetch does not let one choose. */
function statusAs(url: string, host: string): Promise<number | undefined> {
  return new Promise((resolve, reject) => {
    request(url, { headers: { host } }, (response) => {
      response.resume();
      resolve(response.statusCode);
    })
      .on("error", reject)
      .end();
  });
}

const content = async (version: string): Promise<{ status: number; version: string | null; text: string }> => {
  const response = await fetch(`${watching!.url}/content`, { headers: { "If-None-Match": version } });
  return { status: response.status, version: response.headers.get("etag"), text: await response.text() };
};

describe("the server", () => {
  it("follows a run from before its beginning to its end", async () => {
    mkdirSync(at("run"));
    watching = await watchRun(at("run"));
    const first = await (await fetch(watching.url)).text();
    expect(first).toContain("Waits for a run to begin in this directory.");
    let [, version = ""] = /data-version="([^"]*)"/.exec(first.replaceAll("&quot;", "'"))!;
    version = version.replaceAll("'", '"');
    expect((await content(version)).status).toBe(304);

    const losses = async (): Promise<number> => {
      const next = await content(version);
      if (next.status === 304) return -1;
      version = next.version!;
      return dataOf(next.text).figures.find((f) => f.id === "loss")?.rows.length ?? 0;
    };
    writeRun(at("run"), runEvents().slice(0, 2));
    await expect.poll(losses, patient).toBe(0);
    for (const step of [1, 2]) {
      appendFileSync(at("run/events.jsonl"), `${JSON.stringify(stepEvent(step))}\n`);
      await expect.poll(losses, patient).toBe(step);
    }
    expect((await content(version)).status).toBe(304);
  }, 60_000);

  it("says what it cannot read, and goes on when it can", async () => {
    writeRun(at("damaged"));
    watching = await watchRun(at("damaged"));
    appendFileSync(at("damaged/events.jsonl"), "nonsense <b>\n");
    expect((await content("")).text).toMatch(
      /cannot be read now.*line 15: expected an event as JSON, found &quot;nonsense &lt;b&gt;&quot;/s,
    );
    writeRun(at("damaged"));
    await expect.poll(async () => (await content("")).text, patient).toContain("of 6, finished");
  }, 60_000);

  it("answers under local names alone, what is there alone, and takes a policy with it", async () => {
    writeRun(at("names"), runEvents(HOSTILE[0]));
    watching = await watchRun(at("names"));
    expect(await statusAs(watching.url, "evil.example")).toBe(403);
    expect(await statusAs(watching.url, "localhost:1")).toBe(200);
    expect((await fetch(`${watching.url}/../request.json`)).status).toBe(404);
    const response = await fetch(watching.url);
    expect(response.headers.get("content-security-policy")).toMatch(
      /^default-src 'none'; script-src 'sha256-\S+ 'sha256-\S+;.*connect-src 'self'/,
    );
    expect((await response.text()).match(/<script>/g)).toHaveLength(2);
  });

  it("refuses what is no directory, and a port that is taken", async () => {
    writeFileSync(at("file"), "");
    await expect(watchRun(at("file"))).rejects.toThrow(/file: expected the run directory of esft train, found a file/);
    await expect(watchRun(at("nowhere"))).rejects.toThrow(/cannot read .*nowhere: no such file/);
    watching = await watchRun(writeRun(at("port")));
    const port = Number(new URL(watching.url).port);
    await expect(watchRun(at("port"), { port })).rejects.toThrow(/the address is in use; choose another --port/);
  });
});

describe("the command", () => {
  it("says where it is, and ends with 0 after Ctrl-C, pages open or not", async () => {
    const watch = spawnCli(["watch", writeRun(at("command")), "--port", "0"]);
    await expect.poll(() => watch.output(), { timeout: 60_000 }).toContain("\n");
    const [, url] = /^watching .*command on (http:\/\/127\.0\.0\.1:\d+)\n$/.exec(watch.output())!;
    expect((await fetch(url!)).status).toBe(200); // and its connection is kept alive
    watch.kill("SIGINT");
    expect(await watch.done).toMatchObject({ code: 0, signal: null });
  }, 120_000);

  it("wrong usage", async () => {
    expect(await cli(["watch", at("command"), "--port", "70000"])).toMatchObject({
      code: 2,
      err: expect.stringContaining("expected a port"),
    });
    expect(await cli(["watch", at("nowhere")])).toMatchObject({ code: 1, err: expect.stringContaining("cannot read") });
  });
});

const executablePath = findChromium();
if (executablePath === null) console.warn("test/report/watch.test.ts: no Chromium on this system; the page is not watched in a browser");

it.skipIf(executablePath === null)(
  "the page grows with the run, keeps what is open, and says when its server has gone",
  async () => {
    writeRun(at("live"), runEvents().slice(0, 5));
    watching = await watchRun(at("live"));
    const browser = await chromium.launch({ executablePath: executablePath!, args: ["--no-sandbox"] });
    try {
      const page = await browser.newPage();
      const problems: string[] = [];
      page.on("pageerror", (error) => problems.push(error.message));
      page.on("console", (message) => {
        if (message.type() === "error" && !/ERR_CONNECTION_REFUSED|status of 500/.test(message.text())) problems.push(message.text());
      });
      await page.goto(watching.url);
      const rows = page.locator("#loss tbody tr");
      expect(await rows.count()).toBe(3);
      await page.locator("#loss summary").focus();
      await page.keyboard.press("Enter"); // a small table is open: now it is not
      appendFileSync(at("live/events.jsonl"), `${JSON.stringify(stepEvent(3))}\n`);
      await expect.poll(() => rows.count(), patient).toBe(4);
      expect(await page.locator("#loss details").getAttribute("open")).toBeNull();
      expect(await page.evaluate(`document.activeElement.tagName`)).toBe("SUMMARY");
      expect(await page.locator("#live").textContent()).toBe("Live");
      await page.setViewportSize({ width: 400, height: 800 }); // the chart is wider
      await page.locator("#loss .chart").focus();
      await page.evaluate(`document.querySelector("#loss .chart").scrollLeft = 50`);
      appendFileSync(at("live/events.jsonl"), `${JSON.stringify(stepEvent(4))}\n`);
      await expect.poll(() => rows.count(), patient).toBe(5);
      expect(await page.evaluate(`document.querySelector("#loss .chart").scrollLeft`)).toBe(50);
      expect(await page.evaluate(`document.activeElement.className`)).toBe("chart wide");
      await page.route("**/content", (route) => route.fulfill({ status: 500, body: "Internal Server Error" }));
      await expect.poll(() => page.locator("#live").textContent(), patient).toMatch(/^The report cannot be made now/);
      await page.unroute("**/content");
      await expect.poll(() => page.locator("#live").textContent(), patient).toBe("Live");
      expect(problems).toEqual([]);
      rmSync(at("live"), { recursive: true });
      await expect.poll(() => page.locator("main").textContent(), patient).toBe("\n");
      await watching.close();
      watching = null;
      await expect.poll(() => page.locator("#live").textContent(), patient).toMatch(/^Not connected/);
      expect(problems).toEqual([]);
    } finally {
      await browser.close();
    }
  },
  60_000,
);
