// The server through OpenAI's own client, on the embedded model with two adapters: answers are those of the library, and errors, streams,
// tools, log-probabilities have OpenAI's shapes. No GPU. Alone: npx vitest run test/serve/openai.test.ts

import OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { BASE, embedded, makeAdapters, serveEmbedded, until } from "./support.ts";
import { scratch } from "../cli/support.ts";
import type { Served } from "./support.ts";
import { MoeModel } from "../../lib/index.ts";
import type { ServedAdapter } from "../../lib/serve/models.ts";

const ask = "Sum up: Rosa runs to the dusty forest. Snow falls on the roofs, but Rosa is happy."; // the base answers something, each adapter in its form
const conversation = [{ role: "user" as const, content: ask }];
const root = scratch();
let adapters: ServedAdapter[] = [];
let served: Served & { readonly model: MoeModel };
let client: OpenAI;

beforeAll(async () => {
  adapters = await makeAdapters(root);
  served = await serveEmbedded(adapters);
  ({ client } = served);
});
afterAll(() => served.close());

/** The refusal of a request, as the client understands it. */
async function refusal(made: Promise<unknown>): Promise<InstanceType<typeof OpenAI.APIError>> {
  const error: unknown = await made.then(
    () => null,
    (e: unknown) => e,
  );
  if (!(error instanceof OpenAI.APIError)) throw new Error(`expected a refusal, found ${String(error)}`);
  return error;
}
const chat = (more: object = {}) =>
  client.chat.completions.create({
    model: BASE,
    messages: conversation,
    temperature: 0,
    max_tokens: 24,
    ...more,
  } as never) as Promise<OpenAI.ChatCompletion>;

describe("models", () => {
  it("are the base and its adapters", async () => {
    const { data } = await client.models.list();
    expect(data.map(({ id }) => id)).toEqual([BASE, "booking", "other"]);
    expect(await client.models.retrieve("booking")).toMatchObject({ id: "booking", object: "model", owned_by: "esft", parent: BASE });
    expect((await refusal(client.models.retrieve("nobody"))).code).toBe("model_not_found");
  });
});

describe("chat", () => {
  it("answers as the library does", async () => {
    const answer = await chat();
    const alone = await served.model.chat(conversation, { maxTokens: 24 }).result();
    expect(answer.object).toBe("chat.completion");
    expect(answer.choices).toEqual([
      { index: 0, message: { role: "assistant", content: alone.text, refusal: null }, logprobs: null, finish_reason: alone.finishReason },
    ]);
    const { promptTokens, ids } = alone;
    expect(answer.usage).toEqual({ prompt_tokens: promptTokens, completion_tokens: ids.length, total_tokens: promptTokens + ids.length });
  });

  it("streams the same, with usage where it is asked for", async () => {
    const whole = await chat();
    const stream = await client.chat.completions.create({
      model: BASE,
      messages: conversation,
      temperature: 0,
      max_tokens: 24,
      stream: true,
      stream_options: { include_usage: true },
    });
    let text = "";
    const finished: (string | null)[] = [];
    let usage: unknown = null;
    for await (const chunk of stream) {
      expect(chunk.object).toBe("chat.completion.chunk");
      for (const { delta, finish_reason: finish } of chunk.choices) {
        text += delta.content ?? "";
        if (finish !== null) finished.push(finish);
      }
      usage = chunk.usage ?? usage;
    }
    expect(text).toBe(whole.choices[0]!.message.content);
    expect(finished).toEqual([whole.choices[0]!.finish_reason]);
    expect(usage).toEqual(whole.usage);
  });

  it("answers under an adapter's name with the adapter, many at once of all names", async () => {
    const names = [BASE, "booking", "other"];
    const alone = new Map<string, string>();
    for (const name of names) {
      await using model = await MoeModel.fromPretrained(embedded, { threads: 2, adapter: adapters.find((a) => a.name === name)?.dir });
      alone.set(name, (await model.chat(conversation, { maxTokens: 24 }).result()).text);
    }
    expect(new Set(alone.values()).size).toBe(3);
    const order = Array.from({ length: 12 }, (_, i) => names[(i * 7) % 3]!);
    const answers = await Promise.all(order.map((model) => chat({ model })));
    expect(answers.map((a) => a.choices[0]!.message.content)).toEqual(order.map((name) => alone.get(name)));
    expect(served.models.load).toEqual({ active: 0, waiting: 0 });
  });

  it("ends before a stop string", async () => {
    const whole = (await chat()).choices[0]!.message.content!;
    const stop = whole.slice(3, 6);
    const { choices } = await chat({ stop });
    expect(choices[0]).toMatchObject({ message: { content: whole.slice(0, whole.indexOf(stop)) }, finish_reason: "stop" });
    expect((await chat({ stop: ["nowhere in it", stop] })).choices[0]!.message.content).toBe(whole.slice(0, whole.indexOf(stop)));
  });

  it("ends at max_completion_tokens", async () => {
    const { choices, usage } = await chat({ max_tokens: undefined, max_completion_tokens: 3 });
    expect(choices[0]!.finish_reason).toBe("length");
    expect(usage!.completion_tokens).toBe(3);
  });

  it("n choices have the seeds from the given one on, and are the same again", async () => {
    const asked = { n: 3, seed: 11, temperature: 1.5, max_tokens: 12 };
    const first = await chat(asked);
    expect(first.choices.map(({ index }) => index)).toEqual([0, 1, 2]);
    expect(new Set(first.choices.map(({ message }) => message.content)).size).toBe(3);
    expect((await chat(asked)).choices).toEqual(first.choices);
    const second = await chat({ ...asked, n: 1, seed: 12 });
    expect(second.choices[0]!.message).toEqual(first.choices[1]!.message);
    const stream = await client.chat.completions.create({ model: BASE, messages: conversation, ...asked, stream: true });
    const texts = ["", "", ""];
    for await (const { choices } of stream) for (const { index, delta } of choices) texts[index]! += delta.content ?? "";
    expect(texts).toEqual(first.choices.map((c) => c.message.content));
  });

  it("tells log-probabilities of its tokens", async () => {
    const { choices, usage } = await chat({ logprobs: true, top_logprobs: 2 });
    const content = choices[0]!.logprobs!.content!;
    expect(content).toHaveLength(usage!.completion_tokens);
    expect(content.map((t) => t.token).join("")).toBe(choices[0]!.message.content);
    for (const { token, logprob, bytes, top_logprobs: top } of content) {
      expect(Buffer.from(bytes!).toString()).toBe(token);
      expect(top).toHaveLength(2);
      expect(top[0]).toEqual({ token, logprob, bytes }); // greedy: the likeliest
      expect(top[1]!.logprob).toBeLessThanOrEqual(logprob);
      expect(Math.exp(logprob) + Math.exp(top[1]!.logprob)).toBeLessThanOrEqual(1 + 1e-6);
    }
  });

  it("frees the sequence of a client that goes away", async () => {
    for (const stream of [true, false]) {
      const leave = new AbortController();
      const made = client.chat.completions.create(
        { model: BASE, messages: conversation, stream, temperature: 2, n: 8, max_tokens: 900 },
        { signal: leave.signal },
      );
      void made.catch(() => undefined);
      await until(() => served.models.load.active > 0);
      leave.abort();
      await until(() => served.models.load.active + served.server.size === 0);
    }
    expect((await chat()).choices).toHaveLength(1);
  });
});

describe("tools", () => {
  const tools = [{ type: "function" as const, function: { name: "book_flight", parameters: { type: "object", scale: 1.5 } } }];
  const source =
    "{% if tools %}{{ '<|system|>' + (tools | tojson) + '<|end|>' }}{% endif %}{% for m in messages %}{{ '<|' + m.role + '|>' + (m.content or '') }}" +
    "{% for c in m.tool_calls or [] %}{{ c.function.name + c.function.arguments }}{% endfor %}{{ '<|end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}";

  it("pass through a template that has a place for them", async () => {
    const withTools = await serveEmbedded([], { template: { source } });
    try {
      const request = { model: BASE, messages: conversation, temperature: 0, max_tokens: 8 };
      const plain = await withTools.client.chat.completions.create(request);
      const told = await withTools.client.chat.completions.create({ ...request, tools, tool_choice: "auto" });
      const alone = await withTools.model.chat(conversation, { template: { source }, tools, maxTokens: 8 }).result();
      expect(told.choices[0]!.message.content).toBe(alone.text);
      expect(told.usage!.prompt_tokens).toBe(alone.promptTokens);
      expect(told.usage!.prompt_tokens).toBeGreaterThan(plain.usage!.prompt_tokens);
      const none = await withTools.client.chat.completions.create({ ...request, tools, tool_choice: "none" });
      expect(none.usage).toEqual(plain.usage);
      const called = await withTools.client.chat.completions.create({
        ...request,
        messages: [
          ...conversation,
          {
            role: "assistant",
            content: null,
            tool_calls: [{ id: "1", type: "function", function: { name: "book_flight", arguments: "{}" } }],
          },
          { role: "tool", tool_call_id: "1", content: "done" },
        ],
      });
      expect(called.usage!.prompt_tokens).toBeGreaterThan(plain.usage!.prompt_tokens);
    } finally {
      await withTools.close();
    }
  });

  it("are refused by a template that would leave them out, and cannot be forced", async () => {
    expect(await refusal(chat({ tools }))).toMatchObject({ status: 400, param: "tools" });
    expect(await refusal(chat({ tools, tool_choice: "required" }))).toMatchObject({ status: 400, param: "tool_choice" });
  });
});

describe("completions", () => {
  const complete = (more: object = {}) =>
    client.completions.create({
      model: BASE,
      prompt: "The people",
      temperature: 0,
      max_tokens: 8,
      ...more,
    } as never) as Promise<OpenAI.Completion>;

  it("continue a text, several, and token ids", async () => {
    const tokenizer = await served.model.tokenizer();
    const ids = await tokenizer.encodeRaw("The people");
    const alone = await served.model.generate("The people", { maxTokens: 8 }).result();
    const one = await complete();
    expect(one.choices).toEqual([{ text: alone.text, index: 0, logprobs: null, finish_reason: "length" }]);
    expect(one.usage).toEqual({ prompt_tokens: ids.length, completion_tokens: 8, total_tokens: ids.length + 8 });
    expect((await complete({ prompt: ids })).choices).toEqual(one.choices);
    const two = await complete({ prompt: ["The people", "A day"], n: 2 });
    expect(two.choices.map(({ index }) => index)).toEqual([0, 1, 2, 3]);
    expect(two.choices[1]!.text).toBe(alone.text);
    expect((await complete({ prompt: [ids, ids] })).choices.map(({ text }) => text)).toEqual([alone.text, alone.text]);
  });

  it("stream the same, with log-probabilities", async () => {
    const whole = await complete({ logprobs: 0 });
    const stream = await client.completions.create({
      model: BASE,
      prompt: "The people",
      temperature: 0,
      max_tokens: 8,
      logprobs: 0,
      stream: true,
    });
    let text = "";
    const tokens: string[] = [];
    const offsets: number[] = [];
    for await (const { choices } of stream) {
      text += choices[0]?.text ?? "";
      tokens.push(...(choices[0]?.logprobs?.tokens ?? []));
      offsets.push(...(choices[0]?.logprobs?.text_offset ?? []));
    }
    expect(text).toBe(whole.choices[0]!.text);
    expect(tokens).toEqual(whole.choices[0]!.logprobs!.tokens);
    expect(offsets).toEqual(whole.choices[0]!.logprobs!.text_offset);
    expect(tokens.join("")).toBe(text);
  });
});

describe("refusals", () => {
  it.each([
    [{ model: "gpt-4" }, 404, "model", "model_not_found"],
    [{ temperature: 3 }, 400, "temperature", null],
    [{ presence_penalty: 0.5 }, 400, "presence_penalty", null],
    [{ frequency_penalty: -1 }, 400, "frequency_penalty", null],
    [{ logit_bias: { 5: 1 } }, 400, "logit_bias", null],
    [{ response_format: { type: "json_object" } }, 400, "response_format", null],
    [{ top_logprobs: 2 }, 400, "top_logprobs", null],
    [{ max_tokens: 2000 }, 400, "max_tokens", "context_length_exceeded"],
    [{ max_tokens: 0 }, 400, "max_tokens", null],
    [{ max_completion_tokens: 7 }, 400, "max_tokens", null],
    [{ n: 0 }, 400, "n", null],
    [{ stop: [""] }, 400, "stop", null],
    [{ stream_options: { include_usage: true } }, 400, "stream_options", null],
    [{ messages: [] }, 400, "messages", null],
    [{ messages: [{ role: "user", content: [{ type: "image_url", image_url: { url: "x" } }] }] }, 400, "messages[0].content", null],
    [{ messages: [{ role: "tool", content: "x" }] }, 400, "messages", null],
    [{ tempreature: 1 }, 400, "tempreature", "unknown_parameter"],
    [{ reasoning_effort: "low" }, 400, "reasoning_effort", null],
  ])("%j", async (more, status, param, code) => {
    const error = await refusal(chat(more));
    expect({ status: error.status, param: error.param, code: error.code }).toEqual({ status, param, code });
    expect(error.type).toBe("invalid_request_error");
    expect(error.message.length).toBeGreaterThan(20);
  });

  it("do not meet what changes nothing", async () => {
    const answer = await chat({
      user: "me",
      metadata: { a: "b" },
      store: false,
      presence_penalty: 0,
      logit_bias: {},
      response_format: { type: "text" },
      top_p: 0.9,
      top_k: 5,
      min_p: 0.1,
      repetition_penalty: 1,
      seed: null,
      stop: null,
      tools: null,
    });
    expect(answer.choices).toEqual((await chat()).choices);
  });
});
