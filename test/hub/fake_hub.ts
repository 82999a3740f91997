// The Hugging Face Hub on this machine, for tests: the routes that fetching a model takes, and a second server that holds large files.
// What it does wrong is asked of it. Nothing else is asked for: the environment that is set points to it and to a cache of the test.

import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { createServer } from "node:http";
import type { IncomingMessage, Server, ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach } from "vitest";

export const COMMIT = "0123456789abcdef0123456789abcdef01234567";
const LARGE = /\.safetensors$|^tokenizer\.json$/;

export const gitHash = (content: Buffer): string => createHash("sha1").update(`blob ${content.length}\0`).update(content).digest("hex");
export const sha256 = (content: Buffer): string => createHash("sha256").update(content).digest("hex");
export const hashOf = (name: string, content: Buffer): string => (LARGE.test(name) ? sha256(content) : gitHash(content));

interface Model {
  readonly files: Map<string, Buffer>;
  commit: string;
  readonly revisions: Map<string, string>;
}

export class FakeHub {
  readonly models = new Map<string, Model>();
  /** What was asked for, and the authorization that came with it. */
  readonly asked: { readonly host: "hub" | "cdn"; readonly path: string; readonly range: string | null; readonly token: string | null }[] =
    [];
  /** Models that need this token. */
  readonly gated = new Map<string, string>();
  readonly secret = new Set<string>();
  /** The connection is cut after so many bytes of a large file, so many times. */
  cutAfter = Infinity;
  cuts = 0;
  /** Bytes of this file are others than the hub says. */
  wrong: string | null = null;
  ranges = true;
  /** Waits before each large file. */
  hold: Promise<void> = Promise.resolve();
  /** Entries of a page of the list of files. */
  page = 1000;
  private readonly servers: Server[] = [];
  endpoint = "";
  private cdn = "";

  async start(): Promise<this> {
    this.endpoint = await this.listen((request, response) => this.answer(request, response));
    this.cdn = await this.listen((request, response) => this.answerCdn(request, response));
    return this;
  }

  private async listen(handle: (request: IncomingMessage, response: ServerResponse) => void | Promise<void>): Promise<string> {
    const server = createServer((request, response) => void handle(request, response));
    this.servers.push(server);
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  }

  async stop(): Promise<void> {
    for (const server of this.servers) {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    }
    this.servers.length = 0;
  }

  /** All files of a folder, and of folders in it, as a model. */
  add(id: string, dir: string, more: Readonly<Record<string, string>> = {}): Model {
    const files = new Map<string, Buffer>();
    for (const name of readdirSync(dir, { recursive: true, encoding: "utf8" }))
      if (statSync(join(dir, name)).isFile()) files.set(name, readFileSync(join(dir, name)));
    for (const [name, text] of Object.entries(more)) files.set(name, Buffer.from(text));
    const model = { files, commit: COMMIT, revisions: new Map([["main", COMMIT]]) };
    this.models.set(id, model);
    return model;
  }

  /** What was asked for of files, in order. */
  get fetched(): string[] {
    return this.asked
      .filter(({ host, path }) => host === "hub" && path.includes("/resolve/"))
      .map(({ path }) => path.replace(/^.*\/resolve\/[^/]+\//, ""));
  }

  private note(host: "hub" | "cdn", request: IncomingMessage): void {
    const { range = null, authorization = null } = request.headers;
    this.asked.push({ host, path: request.url!, range, token: authorization });
  }

  private answer(request: IncomingMessage, response: ServerResponse): void {
    this.note("hub", request);
    const url = new URL(request.url!, this.endpoint);
    const [, api, org, name, kind, rest = ""] =
      /^(\/api\/models)?\/([^/]+)\/([^/]+)\/(revision|tree|resolve)\/(.*)$/.exec(url.pathname) ?? [];
    const id = `${org}/${name}`;
    const model = this.models.get(id);
    const authorized = request.headers.authorization === `Bearer ${this.gated.get(id)}`;
    const fail = (status: number, code: string): void => void response.writeHead(status, { "x-error-code": code }).end();
    if (!model || (this.secret.has(id) && !authorized)) return fail(request.headers.authorization ? 404 : 401, "RepoNotFound");
    const [revision, ...path] = rest.split("/").map(decodeURIComponent);
    const commit = model.revisions.get(revision!) ?? (revision === model.commit ? model.commit : undefined);
    if (commit === undefined) return fail(404, "RevisionNotFound");
    if (kind === "revision") return json(response, { id, sha: commit, gated: this.gated.has(id) ? "manual" : false });
    if (kind === "tree" && api) return this.tree(response, model, path.join("/"), url);
    if (this.gated.has(id) && !authorized) return fail(request.headers.authorization ? 403 : 401, "GatedRepo");
    this.file(request, response, model, path.join("/"), commit);
  }

  private tree(response: ServerResponse, { files }: Model, folder: string, url: URL): void {
    const start = folder === "" ? "" : `${folder}/`;
    const below = [...files].filter(([name]) => name.startsWith(start));
    const folders = new Set(below.map(([name]) => name.slice(start.length)).filter((name) => name.includes("/")).map((name) => name.split("/")[0]!)); // prettier-ignore
    const entries = [
      ...[...folders].map((name) => ({ type: "directory", oid: "0".repeat(40), size: 0, path: start + name })),
      ...below
        .filter(([name]) => !name.slice(start.length).includes("/"))
        .map(([path, content]) => ({
          type: "file",
          path,
          ...(LARGE.test(path)
            ? {
                oid: gitHash(Buffer.from("a pointer")),
                size: content.length,
                lfs: { oid: sha256(content), size: content.length, pointerSize: 134 },
              }
            : { oid: gitHash(content), size: content.length }),
        })),
    ];
    const at = Number(url.searchParams.get("cursor") ?? 0);
    const more = at + this.page < entries.length ? { link: `<${this.endpoint}${url.pathname}?cursor=${at + this.page}>; rel="next"` } : {};
    json(response, entries.slice(at, at + this.page), more);
  }

  private file(request: IncomingMessage, response: ServerResponse, model: Model, path: string, commit: string): void {
    const content = model.files.get(path);
    if (!content) return void response.writeHead(404, { "x-error-code": "EntryNotFound" }).end();
    const head = { "x-repo-commit": commit, "accept-ranges": "bytes" };
    if (!LARGE.test(path))
      return send(response, request, this.bytesOf(path, content), { ...head, etag: `"${gitHash(content)}"` }, this.ranges);
    const place = `${this.cdn}/${encodeURIComponent(JSON.stringify([[...this.models].find(([, m]) => m === model)![0], path]))}?signature=s3cret`;
    response
      .writeHead(302, {
        ...head,
        location: place,
        etag: '"other"',
        "x-linked-etag": `"${sha256(content)}"`,
        "x-linked-size": content.length,
      })
      .end();
  }

  private async answerCdn(request: IncomingMessage, response: ServerResponse): Promise<void> {
    this.note("cdn", request);
    await this.hold;
    const [id, path] = JSON.parse(decodeURIComponent(new URL(request.url!, this.cdn).pathname.slice(1))) as [string, string];
    const content = this.bytesOf(path, this.models.get(id)!.files.get(path)!);
    send(response, request, content, { etag: '"of the cdn"' }, this.ranges, this.cuts > 0 ? this.cutAfter : Infinity, () => this.cuts--);
  }

  private bytesOf(path: string, content: Buffer): Buffer {
    if (this.wrong !== path) return content;
    const other = Buffer.from(content);
    other[other.length - 1]! ^= 1;
    return other;
  }
}

function json(response: ServerResponse, value: unknown, headers: Readonly<Record<string, string>> = {}): void {
  response.writeHead(200, { "content-type": "application/json", ...headers }).end(JSON.stringify(value));
}

function send(
  response: ServerResponse,
  request: IncomingMessage,
  content: Buffer,
  headers: Readonly<Record<string, string>>,
  ranges: boolean,
  cutAfter = Infinity,
  onCut: () => void = () => undefined,
): void {
  const [, from] = /^bytes=(\d+)-$/.exec(request.headers.range ?? "") ?? [];
  const at = ranges && from !== undefined ? Number(from) : 0;
  const part = content.subarray(at);
  if (ranges && from !== undefined)
    response.writeHead(206, {
      ...headers,
      "content-length": part.length,
      "content-range": `bytes ${at}-${content.length - 1}/${content.length}`,
    });
  else response.writeHead(200, { ...headers, "content-length": part.length });
  if (part.length <= cutAfter) return void response.end(part);
  onCut();
  response.write(part.subarray(0, cutAfter), () => setTimeout(() => response.destroy(), 20));
}

/** A hub and an empty HF_HOME for each test of a file. */
export function withHub(): { readonly hub: FakeHub; readonly home: string; readonly at: (...names: string[]) => string } {
  const found = { hub: new FakeHub(), home: "", at: (...names: string[]): string => join(found.home, ...names) };
  const names = ["HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_ENDPOINT", "HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]; // prettier-ignore
  const before = Object.fromEntries(names.map((name) => [name, process.env[name]]));
  beforeEach(async () => {
    found.home = mkdtempSync(join(tmpdir(), "esft-hub-"));
    mkdirSync(found.at("hub"));
    found.hub = await new FakeHub().start();
    for (const name of names) delete process.env[name];
    process.env["HF_HOME"] = found.home;
    process.env["HF_ENDPOINT"] = found.hub.endpoint;
  });
  afterEach(async () => {
    await found.hub.stop();
    for (const name of names)
      if (before[name] === undefined) delete process.env[name];
      else process.env[name] = before[name];
    rmSync(found.home, { recursive: true, force: true });
  });
  return found;
}
