// The chat on a terminal, and on a pipe. On a terminal Ctrl-C stops an answer, drops a line that was begun, and leaves when it is
// pressed twice with nothing to stop; what is typed during an answer waits until its end. On a pipe every line is a question.

import { createInterface } from "node:readline/promises";
import { Writable } from "node:stream";
import { throwIfAborted } from "../../task.ts";
import type { Input, Terminal } from "../terminal.ts";
import { Dialog } from "./dialog.ts";
import type { ChatSession, Screen } from "./session.ts";

/** Where a session writes. On a terminal control characters of an answer are shown, not obeyed. */
export function screenOf(terminal: Terminal, interactive: boolean, colour: boolean): Screen {
  const dim = (text: string): string => (colour ? `\u001b[2m${text}\u001b[22m` : text);
  return {
    text: (text) => terminal.write(interactive ? harmless(text) : text),
    note: (text) => terminal.note(text),
    aside: (text) => (interactive ? terminal.note(dim(text)) : undefined),
    columns: interactive ? terminal.columns : 0,
  };
}

// eslint-disable-next-line no-control-regex
const harmless = (text: string): string => text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, "\ufffd");

/** Until the end of the input, or the wish to leave. @throws what an answer fails with, on a pipe; AbortError by the terminal's signal */
export async function converse(session: ChatSession, terminal: Terminal, input: Input): Promise<void> {
  await (input.interactive ? typed(session, terminal, input) : piped(session, terminal, input));
  throwIfAborted(terminal.signal, "the chat");
}

async function piped(session: ChatSession, { signal }: Terminal, { stream }: Input): Promise<void> {
  const reader = createInterface({ input: stream, crlfDelay: Infinity, terminal: false });
  const close = (): void => reader.close();
  signal.addEventListener("abort", close, { once: true });
  try {
    for await (const line of reader) {
      throwIfAborted(signal, "the chat");
      if (line.trim() !== "") await session.ask(line);
    }
  } finally {
    signal.removeEventListener("abort", close);
    reader.close();
  }
}

async function typed(session: ChatSession, terminal: Terminal, { stream }: Input): Promise<void> {
  const dialog = new Dialog(session);
  let answering = false;
  const output = Object.assign(new Writable({ write: (chunk: Buffer, _, done) => (answering || terminal.write(String(chunk)), done()) }), {
    columns: terminal.columns,
  });
  const reader = createInterface({ input: stream, output, terminal: true, historySize: 1000 });
  const waiting: string[] = [];
  let wake = (): void => undefined;
  let over = false;
  let warned = false;
  const prompt = (): void => {
    reader.setPrompt(dialog.prompt);
    reader.prompt(true);
  };
  reader.on("line", (line) => {
    waiting.push(line);
    wake();
  });
  reader.on("close", () => {
    over = true;
    session.stop();
    wake();
  });
  reader.on("SIGINT", () => {
    if (session.stop()) return;
    if (warned && reader.line === "" && !dialog.open) return reader.close();
    terminal.write("\n");
    if (reader.line === "" && !dialog.open) {
      warned = true;
      terminal.note("Ctrl-C again, Ctrl-D or /quit leaves");
    }
    dialog.drop();
    reader.write(null, { ctrl: true, name: "e" });
    reader.write(null, { ctrl: true, name: "u" });
    prompt();
  });
  const close = (): void => reader.close();
  terminal.signal.addEventListener("abort", close, { once: true });
  try {
    while (!over && !terminal.signal.aborted) {
      if (waiting.length === 0) {
        prompt();
        await new Promise<void>((resolve) => (wake = resolve));
      }
      const line = waiting.shift();
      if (line === undefined) continue;
      warned = false;
      answering = true;
      const goesOn = await dialog.line(line);
      answering = false;
      if (!goesOn) return;
    }
    terminal.write("\n");
  } finally {
    terminal.signal.removeEventListener("abort", close);
    reader.close();
  }
}
