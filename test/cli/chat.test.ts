// esft chat: questions, commands and Ctrl-C typed at a stand-in for the model; the embedded model on a pipe. No GPU.
// Alone: npx vitest run test/cli/chat.test.ts

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import { setImmediate as turn } from "node:timers/promises";
import { beforeEach, describe, expect, it } from "vitest";
import { SideBySide } from "../../lib/cli/chat/columns.ts";
import { converse, screenOf } from "../../lib/cli/chat/console.ts";
import { Dialog } from "../../lib/cli/chat/dialog.ts";
import { Lines } from "../../lib/cli/chat/lines.ts";
import { ChatSession } from "../../lib/cli/chat/session.ts";
import type { Answer, ChatSettings, Talker } from "../../lib/cli/chat/session.ts";
import { Terminal } from "../../lib/cli/terminal.ts";
import { DataError } from "../../lib/errors.ts";
import { embedded } from "../support/embedded.ts";
import { cli, scratch } from "./support.ts";

const root = scratch();
const at = (name: string): string => join(root, name);

/** Answers "<adapter>: <question>" word by word; a question "long" has no end, one of "fail" fails. */
class Echo implements Talker {
  readonly asked: Parameters<Talker["chat"]>[] = [];
  readonly adapters: Talker["adapters"] = [
    { name: "law", bytes: 1000 },
    { name: "code", bytes: 2_000_000 },
  ];
  chat(...call: Parameters<Talker["chat"]>): Answer {
    this.asked.push(call);
    const [messages, { adapter }] = call;
    const question = String(messages.at(-1)!.content);
    let cancelled = false;
    const said: string[] = [];
    const words = `${adapter ?? "base"}: ${question}`.split(/(?<= )/);
    return {
      cancel: () => (cancelled = true),
      result: () => Promise.resolve({ text: said.join(""), ids: said.map((_, i) => i), finishReason: cancelled ? "cancelled" : "stop" }),
      async *[Symbol.asyncIterator]() {
        if (question === "fail") throw new DataError("the chat template refuses this");
        for (let i = 0; !cancelled && (i < words.length || question === "long"); i++) {
          said.push(words[i] ?? "more ");
          yield { text: said.at(-1)!, tokens: [i] };
          await turn();
        }
      },
    };
  }
}

let [text, notes, asides]: [string, string[], string[]] = ["", [], []];
let echo: Echo;
beforeEach(() => {
  [text, notes, asides] = ["", [], []];
  echo = new Echo();
});
function dialog(settings: ChatSettings = {}, columns = 80): Dialog {
  const screen = { text: (t: string) => void (text += t), note: (t: string) => void notes.push(t), aside: (t: string) => void asides.push(t), columns }; // prettier-ignore
  return new Dialog(new ChatSession(echo, screen, settings));
}
/** Types lines. @returns what came on the screen for the last one */
async function type(to: Dialog, ...lines: string[]): Promise<string> {
  for (const line of lines) {
    [text, notes] = ["", []];
    expect(await to.line(line)).toBe(true);
  }
  return text + notes.join("\n");
}

describe("a conversation", () => {
  it("keeps what was said, and asks with all of it", async () => {
    const d = dialog({ system: "Be brief.", adapter: "law", options: { temperature: 0.5, seed: 7 } });
    expect(d.prompt).toBe("law> ");
    expect(await type(d, "one two")).toBe("law: one two\n");
    expect(asides[0]).toMatch(/^3 tokens, the first after .* tokens\/s$/);
    await type(d, "three");
    const [messages, options] = echo.asked[1]!;
    expect(messages.map((m) => m.content)).toEqual(["Be brief.", "one two", "law: one two", "three"]);
    expect(options).toEqual({ temperature: 0.5, seed: 8, adapter: "law" });
  });

  it("forgets a question that failed", async () => {
    const d = dialog();
    await type(d, "one");
    expect(await type(d, "fail")).toBe("error [ERR_DATA]: the chat template refuses this");
    expect(d.session.messages.map((m) => m.content)).toEqual(["one", "base: one"]);
  });

  it("keeps what was said until an answer was stopped", async () => {
    const d = dialog();
    const answering = d.line("long");
    while (!text.includes("more more")) await turn();
    expect(d.session.stop()).toBe(true);
    expect(await answering).toBe(true);
    expect(d.session.stop()).toBe(false);
    expect(d.session.messages.at(-1)!.content).toMatch(/^base: long(more )+$/);
    expect(asides.at(-1)).toMatch(/stopped$/);
  });
});

describe("commands", () => {
  it("choose the adapter", async () => {
    const d = dialog();
    await type(d, "/adapter code", "hello");
    expect(text).toBe("code: hello\n");
    expect(await type(d, "/adapters")).toMatch(/^ {2}base .*\n {2}law +1\.00 kB\n\* code +2\.00 MB$/);
    await type(d, "/adapter base");
    expect(d.prompt).toBe("base> ");
    expect(await type(d, "/adapter lew")).toMatch(/ERR_CONFIG.*did you mean law/);
    expect(await type(d, "/adapter")).toMatch(/expected \/adapter NAME/);
  });

  it("compare two, one after the other or side by side, and keep the conversation", async () => {
    const d = dialog();
    expect(await type(d, "/compare law base one two")).toBe("── law ──\nlaw: one two\n── base ──\nbase: one two\n");
    expect(new Set(echo.asked.map(([, o]) => o.seed)).size).toBe(1);
    expect(d.session.messages).toEqual([]);
    expect(await type(d, "/compare law base")).toMatch(/no question yet/);
    const wide = dialog({}, 103);
    await type(wide, "three", "/compare law code");
    expect(text.split("\n").map((l) => l.replace(/ +/g, " "))).toEqual(["── law ── │ ── code ──", "law: three │ code: three", ""]);
    expect(wide.session.messages).toHaveLength(2);
    expect(await type(wide, "/compare law")).toMatch(/expected \/compare A B/);
  });

  it("ask again with another seed", async () => {
    const d = dialog({ options: { seed: 3 } });
    await type(d, "one", "/retry");
    expect(text).toBe("base: one\n");
    expect(echo.asked.map(([m, o]) => [m.length, o.seed])).toEqual([[1, 3], [1, 4]]); // prettier-ignore
    expect(d.session.messages).toHaveLength(2);
  });

  it("set how answers are made", async () => {
    const d = dialog();
    expect(await type(d, "/set temperature 0.5")).toMatch(/temperature +0\.5/);
    await type(d, "/set top-p 0.9", "/set stop END", "one");
    expect(echo.asked[0]![1]).toMatchObject({ temperature: 0.5, topP: 0.9, stop: "END" });
    expect(await type(d, "/set temperature off")).toMatch(/set.topP: expected 1/);
    expect(await type(d, "/set temperature warm")).toMatch(/expected a number/);
    expect(await type(d, "/set temprature 1")).toMatch(/did you mean temperature/);
    expect(await type(d, "/set top-p off")).toMatch(/top-p +1\n/);
  });

  it("save a row of training data, and go on with one", async () => {
    const d = dialog();
    expect(await type(d, `/save ${at("chat.jsonl")}`)).toMatch(/nothing to save/);
    await type(d, "/system Be brief.", "one", `/save ${at("chat.jsonl")}`, "/clear", "/system off", "two", `/save ${at("chat.jsonl")}`);
    const rows = readFileSync(at("chat.jsonl"), "utf8").trim().split("\n").map((l) => JSON.parse(l) as unknown); // prettier-ignore
    const pair = (q: string) => [{ role: "user", content: q }, { role: "assistant", content: `base: ${q}` }]; // prettier-ignore
    expect(rows).toEqual([{ messages: [{ role: "system", content: "Be brief." }, ...pair("one")] }, { messages: pair("two") }]);
    const other = dialog();
    expect(await type(other, `/load ${at("chat.jsonl")}:1`)).toBe("2 messages and the system's");
    expect(other.session.row).toEqual((rows[0] as { messages: unknown }).messages);
    await type(other, `/load ${at("chat.jsonl")}`);
    expect(other.session.row).toEqual(pair("two"));
    expect(await type(other, `/load ${at("chat.jsonl")}:9`)).toMatch(/in line 9, found none/);
    expect(await type(other, "/load nowhere")).toMatch(/ERR_IO/);
    writeFileSync(at("bad.jsonl"), "{}\n");
    expect(await type(other, `/load ${at("bad.jsonl")}`)).toMatch(/bad.jsonl:1/);
  });

  it("are listed, end it, and are told from questions", async () => {
    const d = dialog();
    expect(await type(d, "/help")).toMatch(/\/compare A B[^]*\/quit/);
    expect(await type(d, "/halp")).toMatch(/no command \/halp: did you mean \/help\?/);
    expect(await type(d, "//etc is what?")).toBe("base: /etc is what?\n");
    expect(await type(d, "", "  ")).toBe("");
    expect(await d.line("/quit")).toBe(false);
  });
});

describe("lines", () => {
  it.each([
    [["a"], "a"],
    [["a\\", "b"], "a\nb"],
    [['"""a"""'], "a"],
    [['"""', "a", "", " b\\", '"""'], "a\n\n b\\"],
    [['"""a', 'b"""'], "a\nb"],
  ])("%j are %j", (lines, said) => {
    const l = new Lines();
    const made = lines.map((line) => [l.push(line), l.open] as const);
    expect(made.at(-1)).toEqual([said, false]);
    for (const [text, open] of made.slice(0, -1)) expect([text, open]).toEqual([null, true]);
  });
  it("that were begun can be dropped", () => {
    const l = new Lines();
    l.push('"""');
    l.drop();
    expect([l.open, l.push("a")]).toEqual([false, "a"]);
  });
});

describe("two columns", () => {
  it("break at spaces and wide characters, and give out rows when both sides are sure", () => {
    const both = new SideBySide(1 + 3 + 2 * 8);
    expect(both.push(0, "one two three")).toEqual([]);
    expect(both.push(1, "数学数学数学\nx")).toEqual(["one two  │ 数学数学"]);
    expect(both.end(0)).toEqual(["three    │ 数学"]);
    expect(both.push(1, "y abcdefghijk")).toEqual(["         │ xy", "         │ abcdefgh"]);
    expect(both.end(1)).toEqual(["         │ ijk"]);
  });
});

describe("on a terminal", () => {
  async function terminal() {
    const stream = new PassThrough();
    let seen = "";
    const stop = new AbortController();
    const write = (t: string): void => void (seen += t);
    const t = new Terminal({ out: write, err: write, interactive: true, columns: 80, signal: stop.signal });
    const session = new ChatSession(echo, screenOf(t, true, false));
    const done = converse(session, t, { stream, interactive: true });
    const until = async (what: RegExp): Promise<void> => {
      for (let i = 0; !what.test(seen); i++) {
        if (i > 20_000) throw new Error(`${String(what)} never came, there is ${JSON.stringify(seen)}`);
        await turn();
      }
      seen = "";
    };
    await until(/base> /);
    return { stream, session, done, until, stop };
  }

  it("Ctrl-C stops the answer, drops a line, and leaves when nothing is there to stop", async () => {
    const { stream, session, done, until } = await terminal();
    stream.write("long\r");
    await until(/more more more/);
    stream.write("\u0003");
    await until(/stopped\n[^]*base> /);
    stream.write("half");
    await until(/half/);
    stream.write("\u0003");
    await until(/base> /);
    stream.write("one\r");
    await until(/base: one\n[^]*base> /);
    expect(session.messages.map((m) => m.content).slice(2)).toEqual(["one", "base: one"]);
    stream.write("\u0003");
    await until(/Ctrl-C again[^]*base> /);
    stream.write("\u0003");
    await done;
  });

  it("the end of input leaves, and so does /quit; a signal is an interrupt; control characters are shown", async () => {
    const first = await terminal();
    first.stream.write("a\u001b[Hb\r");
    first.stream.write("\u0004");
    await first.done;
    const second = await terminal();
    second.stream.write("/quit\r");
    await second.done;
    const third = await terminal();
    third.stop.abort(new Error("interrupted"));
    await expect(third.done).rejects.toMatchObject({ code: "ERR_ABORTED" });
    expect(screenOf(new Terminal({ out: (t) => void (text += t), err: () => undefined, interactive: true, signal: third.stop.signal }), true, true).text("a\u001b[2Jb\n\u009b")).toBe(undefined); // prettier-ignore
    expect(text).toBe("a\ufffd[2Jb\n\ufffd");
  });
});

describe("on a pipe", () => {
  const quick = ["chat", embedded, "--temperature", "0", "--max-tokens", "6", "--device", "cpu"];

  it("every line is a question, and stdout has the answers alone", async () => {
    const { code, out, err } = await cli([...quick], { input: "What is 3 + 4?\n\n/help\n" });
    expect([code, err]).toEqual([0, expect.stringMatching(/^device: cpu.*\n$/)]);
    expect(out.split("\n")).toHaveLength(3);
    expect((await cli([...quick], { input: "What is 3 + 4?" })).out).toBe(`${out.split("\n")[0]}\n`);
    expect((await cli([...quick], { input: "" })).out).toBe("");
  });

  it("refuses by name", async () => {
    expect((await cli([...quick, "--adapter", "law=nowhere"])).err).toMatch(/ERR_IO.*nowhere/);
    expect((await cli([...quick, "--adapter", "a/x", "b/x"])).err).toMatch(/--adapter: expected names that differ, found two of x/);
    expect((await cli([...quick, "--top-p", "0.5"])).err).toMatch(/chat.topP/);
    expect((await cli(["chat", root], { input: "a" })).code).toBe(1);
  });

  it("an interrupt ends it", async () => {
    const stop = new AbortController();
    const run = cli([...quick], { input: "a\n".repeat(1000), signal: stop.signal, onErr: () => setTimeout(() => stop.abort(new Error("interrupted")), 50) }); // prettier-ignore
    expect((await run).code).toBe(130);
  });
});
