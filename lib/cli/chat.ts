// esft chat: talk to a model and to what was tuned from it.

import { basename, resolve } from "node:path";
import type { Command } from "@commander-js/extra-typings";
import { openTemplate } from "../data/source.ts";
import { ConfigError } from "../errors.ts";
import { answerOptions } from "../generate/options.ts";
import { answerFlags, answerInput } from "./answer_flags.ts";
import { converse, screenOf } from "./chat/console.ts";
import { ChatSession } from "./chat/session.ts";
import { machineOptions, openModel } from "./common.ts";
import { adapterDir, MODEL } from "./hub.ts";
import type { Terminal } from "./terminal.ts";

/**
 * The most probable token again and again makes small models repeat themselves, and /retry would say the same; 1, the model's own
 * distribution, goes astray in long answers. 0.7 lies between, as in most programs of this kind.
 */
const TEMPERATURE = 0.7;

export function registerChat(program: Command, terminal: Terminal): void {
  const command = program
    .command("chat")
    .description("talk to a model and its adapters; /help in the chat lists its commands. On a pipe every line is a question")
    .argument("<model>", MODEL)
    .option(
      "--adapter <adapters...>",
      "adapters to choose from: NAME=DIR, or DIR (its name is the folder's), or a name on the hub; the first one answers",
    )
    .option("--system <text>", "the system's message")
    .option("--template <name>", '"tokenizer" (the checkpoint\'s chat template), "esft" (the official format), or a Jinja file');
  machineOptions(answerFlags(command, { temperature: TEMPERATURE }))
    .addHelpText(
      "after",
      "\nExamples:\n  esft chat ./OLMoE-1B-7B --adapter law=out/law summary=out/summary\n  echo 'What is a tort?' | esft chat ./OLMoE-1B-7B --adapter out/law --temperature 0",
    )
    .action(async (dir, flags) => {
      const options = { temperature: TEMPERATURE, ...answerInput(flags) };
      answerOptions(options, "chat");
      const adapters = named(flags.adapter ?? []);
      const template = await openTemplate(flags.template ?? "tokenizer");
      const input = terminal.input();
      await using model = await openModel(dir, flags, terminal);
      await model.tokenizer(); // told before the first question
      for (const [name, from] of adapters) await model.adapters.add(name, await adapterDir(from, terminal));
      const talker = {
        chat: (...[messages, how]: Parameters<typeof model.chat>) => model.chat(messages, { ...how, template, signal: terminal.signal }),
        adapters: model.adapters.list(),
      };
      const colour = input.interactive && process.env["NO_COLOR"] === undefined;
      const session = new ChatSession(talker, screenOf(terminal, input.interactive, colour), {
        system: flags.system,
        adapter: adapters.keys().next().value,
        options,
      });
      if (input.interactive) terminal.note("/help lists the commands; Ctrl-C stops an answer, Ctrl-D leaves");
      await converse(session, terminal, input);
    });
}

/** Name → folder, in the order given. @throws ConfigError a name twice */
function named(words: readonly string[]): Map<string, string> {
  const found = new Map<string, string>();
  for (const word of words) {
    const [, name = basename(resolve(word)), dir = word] = /^([^=/\\]+)=(.+)$/.exec(word) ?? [];
    if (found.has(name))
      throw new ConfigError(`--adapter: expected names that differ, found two of ${name}; name them: NAME=DIR`, {
        where: { key: "adapter" },
      });
    found.set(name, dir);
  }
  return found;
}
