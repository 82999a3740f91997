// esft serve: the model and its adapters over HTTP, as OpenAI's API has them.

import { InvalidArgumentError } from "@commander-js/extra-typings";
import type { Command } from "@commander-js/extra-typings";
import { openTemplate } from "../data/source.ts";
import { EsftError } from "../errors.ts";
import { interrupted, machineOptions, openModel, portNumber, wholeNumber } from "./common.ts";
import { count } from "../format.ts";
import { adapterDir, MODEL } from "./hub.ts";
import type { Terminal } from "./terminal.ts";

interface NamedAdapter {
  readonly name: string;
  readonly dir: string;
}

export function registerServe(program: Command, terminal: Terminal): void {
  const command = program
    .command("serve")
    .description("serves the model, and adapters by their names, as OpenAI's API: chat, completions, streaming; a page to talk to it at /")
    .argument("<model>", MODEL)
    .option(
      "--adapter <name=dir>",
      "adapter (a directory, or org/name on the hub) and the model name that it answers to; may come more than once",
      namedAdapter,
    )
    .option("--host <address>", "address to listen on; 127.0.0.1 is reached from this machine alone", "127.0.0.1")
    .option("--port <n>", "port to listen on; 0 = any that is free", portNumber, 8000)
    .option("--token <text>", "what clients must send as bearer token (default: ESFT_SERVE_TOKEN, which no list of processes shows)")
    .option("--template <name>", '"tokenizer" (the checkpoint\'s chat template), "esft" (the official format), or a Jinja file')
    .option("--max-queue <n>", "most answers on their way or waiting; more are refused with 429", positive, 256)
    .option("--max-body <bytes>", "most bytes of a request", positive, 4 << 20)
    .option("--drain-seconds <n>", "time for answers to finish after SIGTERM or Ctrl-C", wholeNumber, 30);
  machineOptions(command)
    .addHelpText(
      "after",
      `
Endpoints: GET /v1/models, POST /v1/chat/completions, POST /v1/completions,
  GET /health, GET /metrics, GET / (a page)
Examples:
  esft serve ./OLMoE-1B-7B --adapter law=out/law --adapter medicine=out/medicine
  curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{"model": "law", "messages": [{"role": "user", "content": "…"}]}'`,
    )
    .action(async (dir, flags) => {
      const { host, port: wanted, maxQueue, maxBody, drainSeconds } = flags;
      const token = flags.token ?? process.env["ESFT_SERVE_TOKEN"];
      const template = await openTemplate(flags.template ?? "tokenizer");
      await using model = await openModel(dir, flags, terminal);
      const { OneModel } = await import("../serve/models.ts");
      const { serve } = await import("../serve/server.ts");
      const { signal } = terminal;
      const adapters: NamedAdapter[] = [];
      for (const { name, dir: from } of flags.adapter ?? []) adapters.push({ name, dir: await adapterDir(from, terminal) });
      const models = await OneModel.open(model, adapters, { template, signal });
      await models.tokenizer(); // without one nothing can be served
      const onError = (error: unknown): void => terminal.note(lineOf(error));
      const server = await serve(models, { host, port: wanted, token, maxQueue, maxBody, onError });
      terminal.note(`models: ${models.names.join(", ")}`);
      if (token === undefined && host !== "127.0.0.1" && host !== "localhost" && host !== "::1")
        terminal.note(`warning: whoever reaches ${host} may ask; --token, or ESFT_SERVE_TOKEN, asks for a password`);
      terminal.print(`listening on ${server.url}`);
      await interrupted(signal);
      if (server.size > 0)
        terminal.note(`finishing ${count(server.size)} answer${server.size === 1 ? "" : "s"}, at most ${drainSeconds} s`);
      await server.drain(1000 * drainSeconds);
    });
}

function namedAdapter(text: string, before: readonly NamedAdapter[] = []): NamedAdapter[] {
  const at = text.indexOf("=");
  if (at < 1 || at === text.length - 1) throw new InvalidArgumentError("expected name=dir");
  return [...before, { name: text.slice(0, at), dir: text.slice(at + 1) }];
}

function positive(text: string): number {
  const value = wholeNumber(text);
  if (value === 0) throw new InvalidArgumentError("expected a whole number from 1");
  return value;
}

function lineOf(error: unknown): string {
  const e = error instanceof Error ? error : new Error(String(error));
  const cause = e.cause instanceof Error ? e.cause : e;
  return cause instanceof EsftError ? `error [${cause.code}]: ${cause.message}` : `error [ERR_INTERNAL]: ${cause.stack ?? cause.message}`;
}
