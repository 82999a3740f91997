// The shapes of rows and the flags of messages: what each becomes, and every complaint in words, with its rule and place. No GPU.
// Run alone: npx vitest run test/data/shapes.test.ts

import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { isTrained, refuse, withoutFlags } from "../../lib/data/flags.ts";
import { locate, readObjects, readRow } from "../../lib/data/lines.ts";
import type { BadRow } from "../../lib/data/lines.ts";
import { normaliseRow, type Shape } from "../../lib/data/rows.ts";
import { DataError } from "../../lib/errors.ts";
import { ExactNumber } from "../../lib/text/python_json.ts";

interface Fixture {
  readonly bad: readonly { readonly line: string; readonly code: string; readonly key: string; readonly says: string }[];
}
const fixture = JSON.parse(readFileSync("test/fixtures/text/datasets.json", "utf8")) as Fixture;

const ask = { role: "user", content: "Hi" };
const answer = { role: "assistant", content: "Hello" };
const said = { from: "human", value: "Hi" };
const replied = { from: "gpt", value: "Hello" };
const calling = (call: unknown) => ({ messages: [ask, { role: "assistant", content: null, tool_calls: [call] }] });
const functionCall = (value: unknown) => ({ conversations: [said, { from: "function_call", value }] });
const alpaca = (...history: unknown[]) => ({ instruction: "a", output: "b", history });

/** Rule, place and words of a refusal. */
function refusal(row: unknown, shape?: Shape): unknown[] {
  try {
    return [normaliseRow(row, shape)];
  } catch (error) {
    expect(error).toBeInstanceOf(DataError);
    const { rule, key, says } = (error as DataError).where;
    return [rule, key, says];
  }
}

it("complaints say what the fixtures say", () => {
  expect(fixture.bad.length).toBeGreaterThan(60);
  for (const { line, code, key, says } of fixture.bad) {
    const { error } = readRow(line, 7) as BadRow;
    expect(error.where).toMatchObject({ rule: code, key, line: 7 });
    expect(error.where["says"]).toContain(says.replaceAll("'", '"'));
    expect(error.message.startsWith(key === "" ? "row 7: " : `row 7: ${key}: `), error.message).toBe(true);
  }
});

describe("a row that is refused", () => {
  const pair = "a history turn is a pair of strings";
  const holds = "function_call must hold JSON with name and arguments";
  const both = "prompt and completion must both be strings or both be arrays of messages";
  it.each<[string, unknown, unknown[]]>([
    ["a boolean", true, ["type", "", "a row must be an object, not boolean"]],
    ["unknown keys", { a: 1, b: 2 }, ["unknown-shape", "", "no messages, conversations, instruction or prompt/completion in keys a, b"]],
    ["a call that is text", calling("f"), ["type", "messages[1].tool_calls[0]", "messages[1].tool_calls[0] must be an object"]],
    ["a call of nothing", calling({}), ["missing", "messages[1].tool_calls[0].function", "messages[1].tool_calls[0].function is missing"]],
    ["a call of a text", calling({ function: "f" }), ["type", "messages[1].tool_calls[0].function", "messages[1].tool_calls[0].function must be an object, not string"]],
    ["a call of a number", calling({ function: { name: 5 } }), ["type", "messages[1].tool_calls[0].function.name", "messages[1].tool_calls[0].function.name must be a string, not number"]],
    ["a call of a Map", calling({ function: new Map([["name", 5]]) }), ["type", "messages[1].tool_calls[0].function.name", "messages[1].tool_calls[0].function.name must be a string, not number"]],
    ["nothing as messages", { messages: undefined }, ["type", "messages", "messages must be an array, not null"]],
    ["a float as messages", { messages: new ExactNumber("1.0") }, ["type", "messages", "messages must be an array, not number"]],
    ["calls of a tool", { messages: [{ role: "tool", content: "", tool_calls: [] }, answer] }, ["type", "messages[0].tool_calls", "only assistant messages call tools"]],
    ["no calls in place of content", { messages: [ask, { role: "assistant", tool_calls: [] }] }, ["missing", "messages[1].content", "messages[1].content is missing"]],
    ["null as calls", { messages: [ask, { role: "assistant", content: null, tool_calls: null }] }, ["type", "messages[1].content", "messages[1].content must be a string, not null"]],
    ["a picture", { messages: [{ role: "user", content: [{ type: "text", text: "a" }, { type: "image" }] }, answer] }, ["type", "messages[0].content[1].type", "only text parts are supported"]],
    ["a function call of text", functionCall("add(1)"), ["tool-json", "conversations[1].value", expect.stringMatching(/^function_call must hold JSON with name and arguments \(.+\)$/)]],
    ["a function call without arguments", functionCall('{"name": "f"}'), ["tool-json", "conversations[1].value", holds]],
    ["a function call without a name", functionCall('[{"arguments": {}}]'), ["tool-json", "conversations[1].value", holds]],
    ["a function call that is a number", functionCall("5"), ["tool-json", "conversations[1].value", holds]],
    ["a function call of null", functionCall("null"), ["tool-json", "conversations[1].value", holds]],
    ["a speaker nobody knows", { conversations: [{ from: "x", value: "" }] }, ["role", "conversations[0].from", 'unknown speaker "x"; known: human, user, gpt, assistant, system, tool, observation, function_call']],
    ["a turn of three", alpaca(["a", "b"], ["a", "b", "c"]), ["type", "history[1]", pair]],
    ["a turn that is text", alpaca("ab"), ["type", "history[0]", pair]],
    ["a turn of numbers", alpaca([1, "b"]), ["type", "history[0]", pair]],
    ["half a turn", alpaca(["a", null]), ["type", "history[0]", pair]],
    ["text and messages", { prompt: "a", completion: [answer] }, ["type", "completion", both]],
    ["messages and text", { prompt: [ask], completion: "a" }, ["type", "completion", both]],
    ["an object as prompt", { prompt: {}, completion: [answer] }, ["type", "prompt", both]],
    ["a prompt without messages", { prompt: [], completion: [answer] }, ["empty", "prompt", "prompt is empty"]],
    ["answers in the prompt alone", { prompt: [ask, answer], completion: [ask] }, ["nothing-to-learn", "prompt", "no assistant message is trained on"]],
    ["tools of another kind", { messages: [ask, answer], tools: 5 }, ["type", "tools", "tools must be an array of objects"]],
    ["tools as text of a number", { messages: [ask, answer], tools: "5" }, ["type", "tools", "tools must be an array of objects"]],
    ["tools as text of lists", { messages: [ask, answer], tools: "[[]]" }, ["type", "tools", "tools must be an array of objects"]],
    ["tools as no JSON", { messages: [ask, answer], tools: "[" }, ["tool-json", "tools", expect.stringMatching(/^tools is text but not JSON \(.+\)$/)]],
  ])("for %s says where and why", (_, row, expected) => {
    expect(refusal(row)).toEqual(expected);
  }); // prettier-ignore

  it("for the shape it should have says what that shape needs", () => {
    const row = { messages: [ask, answer] };
    const missing = (key: string) => ["missing", key, `${key} is missing`];
    const shapes = ["sharegpt", "alpaca", "prompt_completion", "text"] as const;
    expect(shapes.map((shape) => refusal(row, shape))).toEqual(["conversations", "instruction", "prompt", "text"].map(missing));
    expect(refusal({ text: 5 }, "text")).toEqual(["type", "text", "text must be a string, not number"]);
    expect(refusal({ prompt: "a" }, "messages")).toEqual(missing("messages"));
  });

  it("of the official evaluation files says what it is for", () => {
    const [rule, key, words] = refusal({ idx: 0, prompt: "User: x\n\nAssistant:", raw_answers: ["1"], answers: ["1"] });
    expect([rule, key]).toEqual(["missing", "completion"]);
    expect(words).toMatch(
      /^completion is missing; a row of prompt and answers, .* scored \(esft eval --metric, evaluateAnswers\): it cannot/,
    );
    expect(refusal({ prompt: "x" })).toEqual(["missing", "completion", "completion is missing"]);
  });
});

describe("a row that is taken", () => {
  const messages = (row: unknown, shape?: Shape): unknown => (normaliseRow(row, shape) as { row: { messages: unknown } }).row.messages;

  it("has the shape of its first key that says one, or the one that is asked for", () => {
    const row = { completion: "d", prompt: "c", output: "b", instruction: "a", conversations: [said, replied], messages: [ask, answer] };
    const order = ["messages", "conversations", "instruction", "prompt"] as const;
    const found: string[] = [];
    let left: Record<string, unknown> = row;
    for (const key of order) {
      found.push(normaliseRow(left).shape);
      const { [key]: _, ...rest } = left;
      left = rest;
    }
    expect(found).toEqual(["messages", "sharegpt", "alpaca", "prompt_completion"]);
    for (const shape of ["messages", "sharegpt", "alpaca", "prompt_completion"] as const)
      expect(normaliseRow(row, shape).shape).toBe(shape);
    expect(normaliseRow({ ...row, text: "t" }, "text")).toEqual({ shape: "text", text: "t" });
  });

  it("knows speakers by their dialects", () => {
    const turns = ["system", "human", "user", "tool", "observation", "assistant", "gpt"].map((from) => ({ from, value: from }));
    const roles = ["system", "user", "user", "tool", "tool", "assistant", "assistant"];
    expect(messages({ conversations: turns })).toEqual(roles.map((role, i) => ({ role, content: turns[i]!.value })));
    expect(messages({ conversations: [ask, { ...answer, ...replied, value: "from wins" }] })).toEqual([ask, { ...answer, content: "from wins" }]);
    expect(messages({ conversations: [said, { ...replied, loss: false }, { ...replied, name: "x" }] })).toEqual([ask, { ...answer, train: false }, { ...answer, name: "x" }]);
    const calls = [{ name: "f", arguments: { x: 1 } }, { name: "g", arguments: "{}" }];
    const called = calls.map((f) => ({ type: "function", function: f }));
    const texts = [JSON.stringify(calls), JSON.stringify(calls[0])];
    expect(texts.map((text) => JSON.parse(JSON.stringify(messages(functionCall(text)))) as unknown)).toEqual([called, called.slice(0, 1)].map((tool_calls) => [ask, { role: "assistant", content: null, tool_calls }]));
  }); // prettier-ignore

  it("keeps what else its messages have, but for flags", () => {
    const parts = [{ type: "text", text: "a" }, { type: "text", text: "b" }];
    const row = { messages: [{ ...ask, name: "x", weight: 0 }, { role: "assistant", content: parts, reasoning_content: "r", mask: 0 }, { ...answer, loss: false }] };
    expect(messages(row)).toEqual([{ ...ask, name: "x" }, { role: "assistant", content: "ab", reasoning_content: "r" }, { ...answer, train: false }]);
    const map = new Map<string, unknown>([["messages", [new Map(Object.entries(ask)), answer]]]);
    expect(messages(map)).toEqual([ask, answer]);
    expect(messages({ messages: [{ ...ask, tool_calls: null }, answer] })).toEqual([{ ...ask, tool_calls: null }, answer]);
  }); // prettier-ignore

  it("has history before its instruction, and answers of a prompt are not trained", () => {
    const turn = (user: string, assistant: string) => [{ role: "user", content: user }, { role: "assistant", content: assistant }];
    expect(messages({ ...alpaca(["1", "2"], ["3", "4"]), input: "c" })).toEqual([...turn("1", "2"), ...turn("3", "4"), ...turn("a\nc", "b")]);
    expect(messages({ ...alpaca(), input: "" })).toEqual(turn("a", "b"));
    expect(messages({ instruction: "a", output: "b", history: null, input: null })).toEqual(turn("a", "b"));
    expect(messages({ prompt: [ask, answer, ask], completion: [answer] })).toEqual([ask, { ...answer, train: false }, ask, answer]);
  }); // prettier-ignore

  it("has tools as a list or as its text, and none where there are none", () => {
    const tools = [{ type: "function" }];
    for (const given of [tools, JSON.stringify(tools)]) expect(normaliseRow({ messages: [ask, answer], tools: given })).toEqual({ shape: "messages", row: { messages: [ask, answer], tools } }); // prettier-ignore
    for (const given of [[], null, undefined, "[]"]) expect(normaliseRow({ messages: [ask, answer], tools: given })).toEqual({ shape: "messages", row: { messages: [ask, answer] } }); // prettier-ignore
  });
});

describe("a flag", () => {
  const of = (flags: object, role = "assistant"): unknown => {
    try {
      return isTrained({ role, content: "x", ...flags }, "m");
    } catch (error) {
      const { rule, key, says } = (error as DataError).where;
      return [rule, key, says];
    }
  };

  it("says of an answer whether it is trained, in four dialects", () => {
    const yes = [{}, { mask: 0 }, { mask: false }, { train: true }, { loss: true }, { weight: 1 }, { weight: new ExactNumber("1.0") }];
    const no = [{ mask: 1 }, { mask: true }, { train: false }, { loss: false }, { weight: 0 }, { weight: new ExactNumber("0.0") }];
    expect([yes.map((f) => of(f)), no.map((f) => of(f))]).toEqual([yes.map(() => true), no.map(() => false)]);
    expect([of({ mask: 0, train: true, weight: 1, loss: true }), of({ mask: 1, loss: false })]).toEqual([true, false]);
  });

  it("of another meaning is refused", () => {
    const wrong: [string, unknown, string][] = [
      ["train", 1, "true or false, not 1"],
      ["loss", "no", 'true or false, not "no"'],
      ["mask", 2, "0 or 1, not 2"],
      ["mask", null, "0 or 1, not null"],
      ["weight", true, "0 or 1, not true"],
      ["weight", new ExactNumber("0.5"), "0 or 1, not 0.5"],
    ];
    for (const [flag, value, says] of wrong) expect(of({ [flag]: value })).toEqual(["flag", `m.${flag}`, `${flag} must be ${says}`]);
    expect(of({ mask: 1, weight: 1, loss: false })).toEqual(["flags-conflict", "m", "mask and weight and loss disagree"]);
    expect(of({ train: true, loss: false })).toEqual(["flags-conflict", "m", "train and loss disagree"]);
  });

  it("of a message that is no answer may say that it is not trained, nothing else", () => {
    for (const flags of [{}, { mask: 0 }, { mask: 1 }, { train: false }, { weight: 0, mask: 0 }]) expect(of(flags, "user")).toBe(false);
    for (const [flags, flag] of [
      [{ train: true }, "train"],
      [{ mask: 0, weight: 1 }, "weight"],
      [{ train: false, loss: true }, "loss"],
    ] as const)
      // prettier-ignore
      expect(of(flags, "user")).toEqual(["flag", `m.${flag}`, "only assistant messages can be trained on"]);
  });

  it("is not seen by the template", () => {
    const message = { role: "assistant", content: "x", name: "n" };
    expect(withoutFlags({ ...message, mask: 1, train: true, weight: 0, loss: true })).toEqual(message);
  });
});

describe("an error of a row", () => {
  it("is of a length that can be read, whatever the row holds", () => {
    const thrown = (path: string, reason: string): DataError => {
      try {
        return refuse("rule", path, reason, "cause");
      } catch (error) {
        return error as DataError;
      }
    };
    expect(thrown("k".repeat(200), "r".repeat(1000)).message).toBe(`${"k".repeat(200)}: ${"r".repeat(1000)}`);
    const long = thrown("k".repeat(201), "r".repeat(1001));
    expect(long.message).toBe(`${"k".repeat(200)}…: ${"r".repeat(1000)}…`);
    expect(long).toMatchObject({ cause: "cause", where: { rule: "rule", key: `${"k".repeat(200)}…`, says: `${"r".repeat(1000)}…` } });
    expect(thrown("", "why").message).toBe("why");
  });

  it("says its place: file and line, or the number of the row", () => {
    const error = new DataError("why", { where: { rule: "r" }, cause: "c" });
    expect(locate(error, 3, "f")).toMatchObject({ message: "f:3: why", where: { rule: "r", file: "f", line: 3 }, cause: "c" });
    const row = locate(error, 3, undefined);
    expect([row.message, row.where]).toStrictEqual(["row 3: why", { rule: "r", line: 3 }]);
    const read = [...readObjects([{ text: "a" }, 5], { shape: "text", file: "f" })];
    expect(read[0]).toEqual({ ok: true, line: 1, row: { shape: "text", text: "a" } });
    expect((read[1] as BadRow).error.message).toBe("f:2: a row must be an object, not number");
  });

  it("of JSON has its cause; blank lines are no rows", () => {
    const { error } = readRow("{", 1, { file: "f" }) as BadRow;
    expect(error.message).toMatch(/^f:1: not JSON \(.+\)$/);
    expect(error.cause).toBeInstanceOf(Error);
    expect(["", " \t", "\r", "\u00a0"].map((text) => readRow(text, 1))).toEqual([null, null, null, null]);
    expect(readRow('{"text": "a"}', 4, { shape: "text" })).toEqual({ ok: true, line: 4, row: { shape: "text", text: "a" } });
  });

  it("that is none of the row's goes through", () => {
    const trap = new Proxy({}, { ownKeys: () => { throw new TypeError("a trap"); } }); // prettier-ignore
    expect(() => [...readObjects([trap])]).toThrow(TypeError);
  });
});
