// What begins with a slash in a chat: a table of commands, each with its help.

import { ConfigError } from "../../errors.ts";
import { answerOptions } from "../../generate/options.ts";
import type { GenerateInput } from "../../generate/options.ts";
import { decimal } from "../../options.ts";
import { nearest } from "../../options/suggest.ts";
import { bytes, pairs } from "../../format.ts";
import { loadConversation, saveConversation } from "./conversation.ts";
import { BASE } from "./session.ts";
import type { ChatSession } from "./session.ts";

interface Command {
  readonly usage: string;
  readonly does: string;
  /** @param rest what stands after the name. @returns false: it is time to leave */
  readonly run: (session: ChatSession, rest: string) => Promise<boolean | void> | boolean | void;
}

const OPTIONS: Readonly<Record<string, keyof GenerateInput>> = {
  "max-tokens": "maxTokens",
  temperature: "temperature",
  "top-k": "topK",
  "top-p": "topP",
  "min-p": "minP",
  "repetition-penalty": "repetitionPenalty",
  seed: "seed",
  stop: "stop",
};

const COMMANDS: Readonly<Record<string, Command>> = {
  help: { usage: "/help", does: "this list", run: (session) => session.screen.note(help()) },
  adapter: {
    usage: "/adapter NAME",
    does: `the adapter that answers from now on; ${BASE}: the model as it is`,
    run: (session, name) => {
      session.adapter = session.adapterNamed(needed(name, "adapter"));
    },
  },
  adapters: { usage: "/adapters", does: "the adapters that there are", run: (session) => session.screen.note(adapters(session)) },
  compare: {
    usage: "/compare A B [QUESTION]",
    does: "the question, or the last one, to two adapters; the conversation stays as it is",
    run: (session, rest) => {
      const [, a, b, question] = /^(\S+)\s+(\S+)\s*([^]*)$/.exec(rest) ?? [];
      if (a === undefined || b === undefined) throw usage("compare");
      return session.compare(a, b, question ?? "");
    },
  },
  retry: { usage: "/retry", does: "the last question once more", run: (session) => session.retry() },
  system: {
    usage: "/system [TEXT|off]",
    does: "the system's message: shows it, sets it, takes it away",
    run: (session, text) => {
      if (text !== "") session.system = text === "off" ? null : text;
      session.screen.note(session.system === null ? "no system message" : `system: ${session.system}`);
    },
  },
  set: {
    usage: "/set [NAME VALUE|off]",
    does: `how answers are made: ${Object.keys(OPTIONS).join(", ")}`,
    run: (session, rest) => {
      if (rest !== "") session.options = changed(session.options, rest);
      session.screen.note(shownOptions(session.options));
    },
  },
  clear: {
    usage: "/clear",
    does: "begins anew; the system's message stays",
    run: (session) => {
      session.messages = [];
    },
  },
  save: {
    usage: "/save FILE",
    does: "adds the conversation to a file (JSONL, as training reads it)",
    run: async (session, file) => {
      if (session.messages.length === 0) throw new ConfigError("there is nothing to save yet", { where: { key: "messages" } });
      await saveConversation(needed(file, "save"), session.row);
      session.screen.note(`saved to ${file}`);
    },
  },
  load: {
    usage: "/load FILE[:LINE]",
    does: "goes on with the last conversation of a file, or that of a line",
    run: async (session, rest) => {
      const [, file, line] = /^(.*?)(?::(\d+))?$/.exec(needed(rest, "load")) ?? [];
      const [first, ...others] = await loadConversation(file!, line === undefined ? undefined : Number(line));
      session.system = first?.role === "system" && typeof first.content === "string" ? first.content : null;
      session.messages = session.system === null && first ? [first, ...others] : others;
      session.screen.note(`${session.messages.length} messages${session.system === null ? "" : " and the system's"}`);
    },
  },
  quit: { usage: "/quit", does: "leaves, as the end of input does", run: () => false },
};

/** @param text the line without its slash. @throws ConfigError there is no such command, or it is used otherwise */
export async function runCommand(session: ChatSession, text: string): Promise<boolean> {
  const [, name = "", rest = ""] = /^(\S*)\s*([^]*)$/.exec(text) ?? [];
  const known = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
  if (!known) {
    const near = nearest(name, Object.keys(COMMANDS));
    const meant = near === undefined ? "/help lists them" : `did you mean /${near}?`;
    throw new ConfigError(`no command /${name}: ${meant} (a question that begins with a slash: //)`, { where: { key: name } });
  }
  return (await known.run(session, rest.trim())) !== false;
}

function help(): string {
  const commands = Object.values(COMMANDS).map(({ usage: words, does }) => [words, does] as const);
  return `${pairs(commands)}\nA line that ends in \\ goes on in the next one; """ begins and ends many. Ctrl-C stops an answer.`;
}

const usage = (name: string): ConfigError => new ConfigError(`expected ${COMMANDS[name]!.usage}`, { where: { key: name } });
function needed(word: string, command: string): string {
  if (word === "") throw usage(command);
  return word;
}

function adapters({ talker, adapter }: ChatSession): string {
  const mark = (name: string | null): string => (name === adapter ? "* " : "  ");
  return pairs([
    [`${mark(null)}${BASE}`, "the model as it is"],
    ...talker.adapters.map(({ name, bytes: n }) => [`${mark(name)}${name}`, bytes(n)] as const),
  ]);
}

/** @throws ConfigError an unknown name, or a value out of range */
function changed(options: GenerateInput, rest: string): GenerateInput {
  const [, name = "", value = ""] = /^(\S+)\s*([^]*)$/.exec(rest) ?? [];
  const key = Object.hasOwn(OPTIONS, name) ? OPTIONS[name]! : undefined;
  if (key === undefined) {
    const near = nearest(name, Object.keys(OPTIONS));
    throw new ConfigError(
      `nothing to set is called ${name}: ${near === undefined ? Object.keys(OPTIONS).join(", ") : `did you mean ${near}?`}`,
      { where: { key: name } },
    );
  }
  if (value === "") throw usage("set");
  const { [key]: _, ...others } = options;
  const next = value === "off" ? others : { ...others, [key]: key === "stop" ? value : (decimal(value) ?? value) };
  answerOptions(next, "set");
  return next;
}

function shownOptions(options: GenerateInput): string {
  const { maxTokens, stops, sampling } = answerOptions(options, "set");
  const { strings } = stops;
  const { temperature, topK, topP, minP, repetitionPenalty } = sampling;
  return pairs([
    ["max-tokens", maxTokens],
    ["temperature", temperature],
    ["top-k", topK],
    ["top-p", topP],
    ["min-p", minP],
    ["repetition-penalty", repetitionPenalty],
    ["seed", options.seed ?? 1],
    ["stop", strings.length === 0 ? "none" : strings.map((s) => JSON.stringify(s)).join(" ")],
  ]);
}
