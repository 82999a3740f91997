// The server below OpenAI's client: malformed and huge bodies, wrong tokens, slow clients, queue, drain; nothing of it disturbs what is on
// its way. Answers are scripted. No GPU. Alone: npx vitest run test/serve/http.test.ts

import { connect } from "node:net";
import type { Socket } from "node:net";
import { afterEach, describe, expect, it } from "vitest";
import { ConfigError, DataError, DisposedError, KernelError, MemoryError } from "../../lib/index.ts";
import { chatSchema, completionSchema } from "../../lib/serve/schema.ts";
import type { ServeOptions } from "../../lib/serve/server.ts";
import { FakeModels, post, serveModels, until, words } from "./support.ts";
import type { Served } from "./support.ts";

const open: Served[] = [];
afterEach(async () => {
  await Promise.all(open.splice(0).map((served) => served.close()));
});
async function start(
  options: ServeOptions = {},
  models = new FakeModels(),
): Promise<Served & { readonly models: FakeModels; readonly chat: string }> {
  const served = await serveModels(models, options);
  open.push(served);
  return { ...served, models, chat: `${served.url}/v1/chat/completions` };
}

const question = { model: "fake", messages: [{ role: "user", content: "Hello" }] };
const errorOf = async (response: Response) => {
  const { error } = (await response.json()) as { error: { message: string; type: string; param: string | null; code: string | null } };
  return { status: response.status, ...error };
};

/** A connection that the test speaks on by itself; what came so far. */
async function raw(url: string): Promise<{ readonly socket: Socket; readonly got: () => string; readonly closed: () => boolean }> {
  const { hostname, port } = new URL(url);
  const socket = connect(Number(port), hostname);
  let got = "";
  let closed = false;
  socket.on("data", (bytes: Buffer) => void (got += bytes.toString()));
  socket.on("close", () => void (closed = true)).on("error", () => undefined);
  await new Promise((resolve) => socket.once("connect", resolve));
  return { socket, got: () => got, closed: () => closed };
}

describe("bodies", () => {
  it.each([
    ["no JSON", "{", 400, "invalid_json"],
    ["nothing", "", 400, "invalid_json"],
    ["a list", "[]", 400, null],
    ["a number", "7", 400, null],
    ["nesting without end", "[".repeat(100_000), 400, "invalid_json"],
    ["a prototype", '{"__proto__": {"model": "fake"}}', 400, "unknown_parameter"],
  ])("of %s are refused", async (_, body, status, code) => {
    const { chat } = await start();
    expect(await errorOf(await post(chat, body))).toMatchObject({ status, code, type: "invalid_request_error" });
  });

  it("that are no UTF-8, packed, or of another type are refused", async () => {
    const { chat } = await start();
    const bytes = { method: "POST", body: new Uint8Array([0x7b, 0xff, 0x7d]), headers: { "Content-Type": "application/json" } };
    expect(await errorOf(await fetch(chat, bytes))).toMatchObject({ status: 400, code: "invalid_json" });
    for (const headers of [{ "Content-Type": "text/plain" }, { "Content-Encoding": "gzip" }])
      expect((await post(chat, question, headers)).status).toBe(415);
  });

  it("that are huge are refused, announced or not", async () => {
    const { chat, models } = await start({ maxBody: 10_000 });
    const huge = JSON.stringify({ ...question, user: "x".repeat(200_000) });
    expect(await errorOf(await post(chat, huge))).toMatchObject({ status: 413, code: "request_too_large" });
    const body = new ReadableStream({
      start(controller) {
        for (let i = 0; i < huge.length; i += 5000) controller.enqueue(new TextEncoder().encode(huge.slice(i, i + 5000)));
        controller.close();
      },
    });
    const streamed = { method: "POST", headers: { "Content-Type": "application/json" }, body, duplex: "half" };
    // The server may hang up before all is sent: then the client sees that in place of the answer.
    const status = await fetch(chat, streamed as RequestInit).then(
      (r) => r.status,
      () => 413,
    );
    expect(status).toBe(413);
    expect(models.asked).toEqual([]);
    expect((await post(chat, question)).status).toBe(200);
  });

  it("with more than can be a conversation are refused", async () => {
    const { chat } = await start();
    const long = { ...question, messages: [{ role: "user", content: "word ".repeat(3000) }] };
    expect(await errorOf(await post(chat, long))).toMatchObject({ status: 400, code: "context_length_exceeded" });
  });
});

describe("routes", () => {
  it("unknown ones and other methods say what there is", async () => {
    const { url } = await start();
    expect(await errorOf(await fetch(`${url}/v2/models`))).toMatchObject({ status: 404, code: "unknown_url" });
    const wrong = await fetch(`${url}/v1/chat/completions`);
    expect(wrong.headers.get("allow")).toBe("POST");
    expect(await errorOf(wrong)).toMatchObject({ status: 405, code: "method_not_allowed" });
  });

  it("/metrics counts requests, answers and tokens", async () => {
    const { url, chat } = await start();
    await post(chat, question);
    await post(chat, "{");
    const text = await (await fetch(`${url}/metrics`)).text();
    expect(text).toContain('esft_requests_total{path="/v1/chat/completions",status="200"} 1');
    expect(text).toContain('esft_requests_total{path="/v1/chat/completions",status="400"} 1');
    expect(text).toContain('esft_answers_total{model="fake",finish="stop"} 1');
    expect(text).toContain('esft_generated_tokens_total{model="fake"} 2');
    expect(text).toContain('esft_prompt_tokens_total{model="fake"} 3');
    expect(text).toContain("esft_queue_size 0");
    expect(text).toMatch(/process_resident_memory_bytes \d{8}/);
  });
});

describe("log-probabilities", () => {
  it("have the alternatives that were asked for; minus infinity has a number", async () => {
    const { chat, url } = await start();
    const { choices } = (await (await post(chat, { ...question, logprobs: true, top_logprobs: 2 })).json()) as {
      choices: { logprobs: { content: { logprob: number; top_logprobs: { logprob: number }[] }[] } }[];
    };
    expect(choices[0]!.logprobs.content.map((t) => [t.logprob, t.top_logprobs.map((x) => x.logprob)])).toEqual([
      [-0.5, [-0.5, -9999]],
      [-0.5, [-0.5, -9999]],
    ]);
    const old = (await (await post(`${url}/v1/completions`, { model: "fake", prompt: "Hello", logprobs: 1 })).json()) as {
      choices: { logprobs: { top_logprobs: object[]; token_logprobs: number[] } }[];
    };
    expect(old.choices[0]!.logprobs.top_logprobs.map((x) => Object.values(x))).toEqual([[-0.5], [-0.5]]);
    expect(old.choices[0]!.logprobs.token_logprobs).toEqual([-0.5, -0.5]);
  });
});

describe("sampling", () => {
  it("defaults are OpenAI's, and every request has a seed of its own", async () => {
    const { chat, models } = await start();
    await post(chat, question);
    await post(chat, question);
    const [first, second] = models.asked;
    expect(first).toMatchObject({ temperature: 1, topP: 1, topK: 0, minP: 0, repetitionPenalty: 1, logprobs: 0 });
    expect(first!.seed).not.toBe(second!.seed);
    expect(first!.maxTokens).toBeGreaterThan(900);
  });

  it("extensions pass; of a temperature of 0 nothing is drawn", async () => {
    const { chat, models } = await start();
    await post(chat, { ...question, top_k: 7, min_p: 0.2, top_p: 0.5, repetition_penalty: 1.2, seed: 4, n: 2, max_tokens: 9, stop: "x" });
    expect(models.asked).toMatchObject(
      [4, 5].map((seed) => ({ temperature: 1, topK: 7, minP: 0.2, topP: 0.5, repetitionPenalty: 1.2, seed, maxTokens: 9, stop: "x" })),
    );
    await post(chat, { ...question, temperature: 0, top_k: 7, top_p: 0.5 });
    await post(chat, { ...question, top_p: 0 });
    for (const asked of models.asked.slice(2)) expect(asked).toMatchObject({ temperature: 0 });
    for (const asked of models.asked.slice(2)) expect(asked.topK ?? asked.topP).toBe(undefined);
  });
});

describe("who may ask", () => {
  it("with a token: whoever sends it; the page and /health are open", async () => {
    const { url, client } = await start({ token: "secret-token" });
    expect((await client.models.list()).data).toHaveLength(2);
    for (const authorization of ["", "Bearer", "Bearer secret-toke", "Bearer secret-token2", "Basic secret-token", "secret-token"]) {
      const response = await fetch(`${url}/v1/models`, authorization === "" ? {} : { headers: { authorization } });
      expect(response.headers.get("www-authenticate")).toBe("Bearer");
      expect(await errorOf(response)).toMatchObject({ status: 401, code: "invalid_api_key" });
    }
    expect((await fetch(`${url}/metrics`)).status).toBe(401);
    expect((await post(`${url}/v1/chat/completions`, question)).status).toBe(401);
    expect((await fetch(url)).status).toBe(200);
    expect((await fetch(`${url}/health`)).status).toBe(200);
  });

  it("without one: under local names alone", async () => {
    const { url } = await start();
    for (const [host, status] of [
      ["127.0.0.1", 200],
      ["localhost:80", 200],
      ["[::1]:8000", 200],
      ["rebound.example", 403],
    ] as const) {
      const { socket, got } = await raw(url);
      socket.write(`GET /v1/models HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`);
      await until(() => got().includes("\r\n\r\n"));
      expect([host, got().slice(9, 12)]).toEqual([host, String(status)]);
    }
  });

  it("a token that no header can hold is refused at the start", async () => {
    await expect(serveModels(new FakeModels(), { token: "two words" })).rejects.toThrow(ConfigError);
  });
});

describe("too many at once", () => {
  it("are refused with 429, and the places come back", async () => {
    const { chat, server } = await start({ maxQueue: 2 }, new FakeModels(words(["a", "b", "c"], 60)));
    const running = [post(chat, question), post(chat, question)];
    await until(() => server.size === 2);
    const refused = await post(chat, question);
    expect(refused.headers.get("retry-after")).toBe("1");
    expect(await errorOf(refused)).toMatchObject({ status: 429, code: "overloaded", type: "rate_limit_error" });
    for (const response of await Promise.all(running)) expect(response.status).toBe(200);
    expect(server.size).toBe(0);
    expect((await post(chat, question)).status).toBe(200);
    expect(await errorOf(await post(chat, { ...question, n: 3 }))).toMatchObject({ status: 400, param: "n" });
  });
});

describe("what goes wrong", () => {
  it.each([
    [new DataError("bad", { where: { key: "messages" } }), 400, null],
    [new ConfigError("bad", { where: { key: "topP" } }), 400, null],
    [new DisposedError("gone"), 503, "ERR_DISPOSED"],
    [new MemoryError("full"), 503, "ERR_MEMORY"],
    [new KernelError("op"), 500, "ERR_KERNEL"],
    [new TypeError("a defect with secrets"), 500, "internal_error"],
  ])("%s has its status", async (failure, status, code) => {
    const models = new FakeModels();
    models.failure = failure;
    const { chat, errors, server } = await start({}, models);
    const told = await errorOf(await post(chat, question));
    expect(told).toMatchObject({ status, code });
    expect(told.message).not.toContain("secrets");
    expect(errors).toHaveLength(status >= 500 ? 1 : 0);
    expect(server.size).toBe(0);
    const stream = await post(chat, { ...question, stream: true });
    expect(stream.status).toBe(200);
    const events = (await stream.text()).trim().split("\n\n");
    expect(JSON.parse(events.at(-1)!.slice(6))).toMatchObject({ error: { code } });
  });
});

describe("a request of several answers", () => {
  it("fails as a whole, with what went wrong, and frees the others", async () => {
    const models = new FakeModels(
      words(
        Array.from({ length: 1000 }, () => "a"),
        10,
      ),
    );
    models.failure = new KernelError("op");
    models.sparing = 1;
    const { chat, server, url } = await start({}, models);
    expect(await errorOf(await post(chat, { ...question, n: 2 }))).toMatchObject({ status: 500, code: "ERR_KERNEL" });
    expect(models.active + server.size).toBe(0);
    expect(await (await fetch(`${url}/metrics`)).text()).toContain('esft_answers_total{model="fake",finish="failed"} 1');
  });
});

describe("parameters", () => {
  const hostile = [
    true,
    7,
    -1,
    1e308,
    0.5,
    "",
    "x",
    "\ud800",
    [],
    [[]],
    [null],
    {},
    { a: 1 },
    { "0": "x", length: 2 },
    [{ type: "text" }],
    ["a".repeat(5000)],
  ];
  it.each([
    ["chat/completions", chatSchema, question],
    ["completions", completionSchema, { model: "fake", prompt: "Hello" }],
  ])("of /v1/%s take no value that is a defect", async (path, schema, good) => {
    const { url, errors } = await start();
    for (const key of Object.keys(schema.shape))
      for (const value of hostile) {
        const response = await post(`${url}/v1/${path}`, { ...good, [key]: value });
        const told = await response.text();
        expect([key, value, response.status, told]).toEqual([
          key,
          value,
          key === "model" && response.status === 404 ? 404 : told.includes('"error"') ? 400 : 200,
          told,
        ]);
      }
    expect(errors).toEqual([]);
  });
});

describe("slow clients", () => {
  const timeouts = { headers: 300, request: 600, stall: 400, alive: 100 };

  it("that never finish a request are cut, and disturb nobody", async () => {
    const { url, chat } = await start({ timeouts });
    const head = await raw(url);
    head.socket.write("POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n");
    const body = await raw(url);
    body.socket.write(
      "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{",
    );
    expect((await post(chat, question)).status).toBe(200);
    await until(() => head.closed() && body.closed(), 10_000);
    expect(head.got()).toContain("408");
    expect((await post(chat, question)).status).toBe(200);
  });

  it("that do not read are cut, and their sequences are free long before", async () => {
    const text = "x".repeat(400_000);
    const { url, server, chat, models } = await start({ timeouts }, new FakeModels(words(Array.from({ length: 60 }, () => text))));
    const request = JSON.stringify({ ...question, stream: true });
    const { socket, closed } = await raw(url);
    socket.pause();
    socket.write(
      `POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${request.length}\r\n\r\n${request}`,
    );
    await until(() => models.asked.length === 1);
    await until(() => server.size === 0);
    models.script = words(["short"]);
    expect((await post(chat, question)).status).toBe(200);
    await new Promise((resolve) => setTimeout(resolve, 5 * timeouts.stall));
    let got = 0;
    socket.on("data", (bytes: Buffer) => void (got += bytes.length)).resume();
    await until(closed);
    expect(got).toBeLessThan(60 * text.length);
  });

  it("that wait for a slow model are told that it lives", async () => {
    const { chat } = await start({ timeouts: { stall: 1500, alive: 100 } }, new FakeModels(words(["late"], 2000)));
    const told = await (await post(chat, { ...question, stream: true })).text();
    expect(told.split(": waiting\n\n").length).toBeGreaterThan(4);
    expect(told.replaceAll(": waiting\n\n", "")).toMatch(/"content":"late"[^]*data: \[DONE\]\n\n$/);
    expect((await post(chat, question)).status).toBe(200); // longer than `stall` without a byte
  });

  it("that go away free their places", async () => {
    const { chat, server, models } = await start({}, new FakeModels(words(["a", "b", "c", "d"], 50)));
    for (const stream of [true, false]) {
      const leave = new AbortController();
      const made = post(chat, { ...question, stream, n: 2 }, {}, leave.signal).then((r) => r.text());
      void made.catch(() => undefined);
      await until(() => models.active === 2);
      leave.abort();
      await until(() => server.size + models.active === 0);
    }
  });
});

describe("drain", () => {
  it("lets answers finish and refuses new ones", async () => {
    const served = await start({}, new FakeModels(words(["a", "b", "c"], 100)));
    const { chat, server, url } = served;
    const whole = post(chat, question);
    const stream = post(chat, { ...question, stream: true });
    await until(() => server.size === 2);
    const drained = server.drain(10_000);
    expect(await errorOf(await post(chat, question))).toMatchObject({ status: 503, code: "shutting_down" });
    expect((await fetch(`${url}/health`)).status).toBe(503);
    expect((await whole).status).toBe(200);
    expect(await (await stream).text()).toContain("[DONE]");
    await drained;
    await expect(fetch(url)).rejects.toThrow();
    open.length = 0;
  });

  it("cuts what takes longer", async () => {
    const { chat, server } = await start(
      {},
      new FakeModels(
        words(
          Array.from({ length: 1000 }, () => "a"),
          20,
        ),
      ),
    );
    const whole = post(chat, question);
    const stream = post(chat, { ...question, stream: true });
    await until(() => server.size === 2);
    await server.drain(100);
    expect(await errorOf(await whole)).toMatchObject({ status: 503, code: "shutting_down" });
    expect(await (await stream).text()).toMatch(/"shutting_down"\}\}\n\n$/);
    open.length = 0;
  });
});
