// Servers for tests: the embedded model with adapters, or models whose answers a test decides.

import { join } from "node:path";
import OpenAI from "openai";
import { ExpertSet, loadTokenizer, MoeModel } from "../../lib/index.ts";
import type { GeneratedPiece, GenerationResult } from "../../lib/generate/generation.ts";
import type { GenerateInput } from "../../lib/generate/options.ts";
import { OneModel } from "../../lib/serve/models.ts";
import type { Answer, Models, OneModelOptions, ServedAdapter } from "../../lib/serve/models.ts";
import { serve } from "../../lib/serve/server.ts";
import type { RunningServer, ServeOptions } from "../../lib/serve/server.ts";

export const embedded = "examples/embedded";
export const BASE = "embedded";

/** Two adapters that say something else than the base, each from a few steps. */
export async function makeAdapters(root: string): Promise<ServedAdapter[]> {
  await using model = await MoeModel.fromPretrained(embedded, { threads: 2 });
  const made: ServedAdapter[] = [];
  for (const [name, domain, ids] of [
    ["booking", "booking.train", [0, 1, 2, 3, 4, 5, 6, 7]],
    ["other", "summary.train", [8, 9, 10, 11, 12, 13, 14, 15]],
  ] as const) {
    const experts = new ExpertSet({ layers: model.spec.layers.map((_, layer) => [layer, { ranked: [...ids] }]) });
    const dir = join(root, name);
    const run = model.train({
      data: { file: `${embedded}/data/${domain}.jsonl`, maxLength: 128 },
      method: { type: "esft", experts },
      outDir: dir,
      steps: 15,
      rowsPerStep: 4,
      optimizer: { lr: 3e-3 },
      evalEvery: 0,
      keep: "last",
    });
    await run.result;
    made.push({ name, dir });
  }
  return made;
}

export interface Served {
  readonly models: Models;
  readonly server: RunningServer;
  readonly client: OpenAI;
  readonly url: string;
  readonly errors: unknown[];
  close(): Promise<void>;
}

export async function serveModels(models: Models, options: ServeOptions = {}): Promise<Served> {
  const errors: unknown[] = [];
  const server = await serve(models, { port: 0, onError: (error) => errors.push(error), ...options });
  const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: options.token ?? "none", maxRetries: 0 });
  return { models, server, client, url: server.url, errors, close: () => server.drain(0) };
}

export async function serveEmbedded(
  adapters: readonly ServedAdapter[] = [],
  options: ServeOptions & OneModelOptions = {},
): Promise<Served & { readonly model: MoeModel }> {
  const model = await MoeModel.fromPretrained(embedded, { threads: 2 });
  const served = await serveModels(await OneModel.open(model, adapters, options), options);
  const close = async (): Promise<void> => {
    await served.close();
    await model[Symbol.asyncDispose]();
  };
  return { ...served, model, close };
}

/** What a fake answer is made of. */
export interface Script {
  readonly pieces: readonly GeneratedPiece[];
  /** Ms before each piece. */
  readonly every: number;
}

/** One answer after a script, with a clock of its own. */
class ScriptedAnswer implements Answer {
  private cancelled = false;
  private readonly finished: Promise<GenerationResult>;
  private readonly said: GeneratedPiece[] = [];
  private readonly wakes: (() => void)[] = [];
  private over = false;

  constructor({ pieces, every }: Script, failure: unknown, onEnd: () => void) {
    this.finished = (failure === null ? this.play(pieces, every) : Promise.reject(failure as Error)).finally(onEnd);
    this.finished.catch(() => (this.over = true));
  }
  private async play(pieces: readonly GeneratedPiece[], every: number): Promise<GenerationResult> {
    for (const piece of pieces) {
      if (every > 0) await new Promise((resolve) => setTimeout(resolve, every));
      if (this.cancelled) break;
      this.said.push(piece);
      this.wakes.splice(0).forEach((wake) => wake());
    }
    this.over = true;
    this.wakes.splice(0).forEach((wake) => wake());
    const tokens = this.said.flatMap((p) => p.tokens);
    const text = this.said.map((p) => p.text).join("");
    const finishReason = this.cancelled ? "cancelled" : "stop";
    return { text, tokens, ids: tokens.map((t) => t.id), finishReason, stop: null, promptTokens: 3 };
  }
  result(): Promise<GenerationResult> {
    return this.finished;
  }
  cancel(): void {
    this.cancelled = true;
  }
  async *[Symbol.asyncIterator](): AsyncGenerator<GeneratedPiece, void, void> {
    for (let i = 0; ;) {
      if (i < this.said.length) yield this.said[i++]!;
      else if (this.over) return void (await this.finished);
      else await Promise.race([new Promise<void>((resolve) => this.wakes.push(resolve)), this.finished.catch(() => undefined)]);
    }
  }
}

export class FakeModels implements Models {
  readonly names = ["fake", "other"];
  readonly maxPositions = 1000;
  readonly vocab = 2048;
  readonly template = "tokenizer" as const;
  readonly fingerprint = "fake";
  readonly asked: GenerateInput[] = [];
  active = 0;
  script: Script;
  /** What answers end in, unless they are so many. */
  failure: unknown = null;
  sparing = 0;

  constructor(script: Script = words(["one", " two"])) {
    this.script = script;
  }
  get load() {
    return { active: this.active, waiting: 0 };
  }
  private readonly words = loadTokenizer(embedded);
  tokenizer() {
    return this.words;
  }
  generate(_: string, __: readonly number[], options: GenerateInput): Answer {
    return this.answer(options);
  }
  chat(_: string, __: readonly unknown[], options: GenerateInput): Answer {
    return this.answer(options);
  }
  private answer(options: GenerateInput): Answer {
    this.asked.push(options);
    this.active++;
    const failure = this.asked.length > this.sparing ? this.failure : null;
    return new ScriptedAnswer(this.script, failure, () => this.active--);
  }
}

/** A piece per text, with a token and two alternatives each. */
export const words = (texts: readonly string[], every = 0): Script => ({
  every,
  pieces: texts.map((text, i) => ({
    text,
    tokens: [
      {
        id: 300 + i,
        logprob: -0.5,
        top: [
          { id: 300 + i, logprob: -0.5 },
          { id: 301 + i, logprob: -Infinity },
        ],
      },
    ],
  })),
});

/** Waits until it is true. */
export async function until(what: () => boolean, ms = 20_000): Promise<void> {
  const end = performance.now() + ms;
  while (!what()) {
    if (performance.now() > end) throw new Error(`not within ${ms} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** A request as JSON by fetch. */
export const post = (url: string, body: unknown, headers: Record<string, string> = {}, signal?: AbortSignal): Promise<Response> =>
  fetch(url, {
    method: "POST",
    headers: { "Content-Type": "application/json", ...headers },
    body: typeof body === "string" ? body : JSON.stringify(body),
    ...(signal ? { signal } : {}),
  });
