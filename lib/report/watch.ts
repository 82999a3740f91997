// esft watch as a server: the report of a run, made anew when its files have changed and somebody looks.

import { stat } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { Hono } from "hono";
import { pathArgument } from "../arguments.ts";
import { ConfigError, EsftError } from "../errors.ts";
import { isLocalName, listen } from "../http.ts";
import { ioError } from "../task.ts";
import { EVENTS } from "../train/events.ts";
import { REQUEST } from "../train/request.ts";
import type { Report } from "./content.ts";
import type { Markup } from "./html.ts";
import { contentOf, pageAround, policyOf } from "./page.ts";
import { script } from "./page_script.ts";
import { isRunDir, readRun, runReport } from "./run.ts";
import { watchScript } from "./watch_script.ts";

export interface Watching {
  /** Where the page is. */
  readonly url: string;
  close(): Promise<void>;
}

/** A page takes at most this share of the time: a report that takes 1 s to make is made every 4 s. */
const SHARE = 0.25;
const TIMEOUTS = { headers: 15_000, request: 30_000, keepAlive: 10_000 };

/**
 * Serves the report of a run directory, which may still be empty, on 127.0.0.1.
 * @throws IoError there is no such directory, or the port is taken · ConfigError it is a file
 */
export async function watchRun(dir: string, { port = 0 }: { readonly port?: number | undefined } = {}): Promise<Watching> {
  pathArgument(dir, "watch: dir");
  const info = await stat(dir).catch((error: unknown) => {
    throw ioError(error, `cannot read ${dir}`, { file: dir });
  });
  if (!info.isDirectory())
    throw new ConfigError(`${dir}: expected the run directory of esft train, found a file; name the directory that --out named`, {
      where: { file: dir },
    });
  const latest = new Latest(dir);
  const app = new Hono();
  app.use(async (c, next) => {
    if (!isLocalName(c.req.header("host"))) return c.text("this server answers as localhost or 127.0.0.1", 403);
    await next();
    c.header("Cache-Control", "no-store");
    c.header("X-Content-Type-Options", "nosniff");
  });
  app.get("/", async (c) => {
    const { title, content, version } = await latest.now();
    c.header("Content-Security-Policy", `${policyOf([script, watchScript], true)}; frame-ancestors 'none'`);
    return c.html(pageAround(title, content, { script: watchScript, version }));
  });
  app.get("/content", async (c) => {
    const { content, version } = await latest.now();
    if (c.req.header("if-none-match") === version) return c.body(null, 304);
    c.header("ETag", version);
    return c.html(content.text);
  });
  return listen(app.fetch, { host: "127.0.0.1", port, maxConnections: 64, timeouts: TIMEOUTS });
}

interface Version {
  readonly title: string;
  readonly content: Markup;
  /** An ETag: of the state of the files. */
  readonly version: string;
}

/** The report of a directory, made when it is asked for and its files are others than before. */
class Latest {
  private readonly dir: string;
  private made: Version | null = null;
  private making: Promise<Version> | null = null;
  private restUntil = 0;

  constructor(dir: string) {
    this.dir = dir;
  }

  async now(): Promise<Version> {
    if (this.making) return this.making;
    if (this.made && performance.now() < this.restUntil) return this.made;
    this.making = this.make();
    try {
      return (this.made = await this.making);
    } finally {
      this.making = null;
    }
  }

  private async make(): Promise<Version> {
    const version = await stampOf(this.dir);
    if (this.made?.version === version) return this.made;
    const begun = performance.now();
    const report = await reportOf(this.dir);
    const content = await contentOf(report);
    this.restUntil = performance.now() + (performance.now() - begun) * (1 / SHARE - 1);
    return { title: report.title, content, version };
  }
}

/** Sizes and times of the files that a report is made from. */
async function stampOf(dir: string): Promise<string> {
  const parts = [EVENTS, REQUEST].map(async (name) => {
    const info = await stat(join(dir, name)).catch(() => null);
    return info === null ? "-" : `${info.size}.${info.mtimeMs}`;
  });
  return `"${(await Promise.all(parts)).join("_")}"`;
}

/** What cannot be read is said on the page, which goes on looking. */
async function reportOf(dir: string): Promise<Report> {
  const title = basename(resolve(dir));
  const empty = { title, facts: [], remarks: [], sections: [] };
  if (!isRunDir(dir)) return { ...empty, about: "Waits for a run to begin in this directory." };
  try {
    return runReport(await readRun(dir));
  } catch (error) {
    if (!(error instanceof EsftError)) throw error;
    return { ...empty, about: "The files of this run cannot be read now.", remarks: [error.message] };
  }
}
