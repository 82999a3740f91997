// A conversation with a model and its adapters: asks, shows answers as they come, keeps what was said. Knows no terminal.

import { ConfigError, DataError } from "../../errors.ts";
import type { GenerateInput } from "../../generate/options.ts";
import { nearest } from "../../options/suggest.ts";
import type { Message } from "../../text/template.ts";
import { duration } from "../../format.ts";
import { SideBySide } from "./columns.ts";

/** An answer on its way: generate/generation.ts, or what a test has in its place. */
export interface Answer extends AsyncIterable<{ readonly text: string; readonly tokens: readonly unknown[] }> {
  result(): Promise<{ readonly text: string; readonly ids: readonly number[]; readonly finishReason: string }>;
  cancel(): void;
}

export interface Talker {
  chat(messages: readonly Message[], options: GenerateInput & { readonly adapter: string | null }): Answer;
  /** Names of the adapters that it can answer with. */
  readonly adapters: readonly { readonly name: string; readonly bytes: number }[];
}

export interface Screen {
  /** A piece of an answer, as it is. */
  text(text: string): void;
  /** A line about an answer or a command. */
  note(text: string): void;
  /** A line that may be overlooked: how fast it was. */
  aside(text: string): void;
  readonly columns: number;
}

export interface ChatSettings {
  readonly system?: string | undefined;
  /** Null: the model as it is. */
  readonly adapter?: string | null | undefined;
  readonly options?: GenerateInput | undefined;
}

/** Columns from which two answers stand side by side. */
const WIDE = 100;
export const BASE = "base";

export class ChatSession {
  readonly screen: Screen;
  readonly talker: Talker;
  system: string | null;
  adapter: string | null;
  options: GenerateInput;
  /** Without the system's message. */
  messages: Message[] = [];
  private readonly running = new Set<Answer>();
  /** Answers so far: each draws by a seed of its own. */
  private answers = 0;

  constructor(talker: Talker, screen: Screen, { system, adapter = null, options = {} }: ChatSettings = {}) {
    this.talker = talker;
    this.screen = screen;
    this.system = system ?? null;
    this.adapter = adapter;
    this.options = options;
  }

  /** The conversation as a row of data has it. */
  get row(): Message[] {
    return [...(this.system === null ? [] : [{ role: "system", content: this.system }]), ...this.messages];
  }

  /** A question, and its answer on the screen. One that fails, or is stopped before its first word, is not kept. */
  async ask(question: string): Promise<void> {
    const before = this.messages;
    const asked = [...before, { role: "user", content: question }];
    this.messages = asked;
    let said = "";
    try {
      said = await this.show(this.begin(asked, this.adapter), (piece) => this.screen.text(piece));
    } finally {
      this.messages = said === "" ? before : [...asked, { role: "assistant", content: said }];
    }
  }

  /** The last question once more. @throws DataError there is none */
  async retry(): Promise<void> {
    const { content, at } = this.lastQuestion();
    const before = this.messages;
    this.messages = before.slice(0, at);
    await this.ask(content);
    if (this.messages.length === at) this.messages = before;
  }

  /** The same question to two adapters; the conversation stays as it was. */
  async compare(a: string, b: string, question: string): Promise<void> {
    const [x, y] = [this.adapterNamed(a), this.adapterNamed(b)];
    const at = question === "" ? this.lastQuestion().at : this.messages.length;
    const asked = [...this.messages.slice(0, at), { role: "user", content: question === "" ? this.lastQuestion().content : question }];
    const seed = this.nextSeed();
    const answers = [x, y].map((adapter) => this.begin(asked, adapter, seed));
    try {
      if (this.screen.columns >= WIDE) await this.sideBySide(answers, [a, b]);
      else
        for (const [i, answer] of answers.entries()) {
          this.screen.text(`── ${[a, b][i]} ──\n`);
          await this.show(answer, (piece) => this.screen.text(piece), false);
        }
    } finally {
      for (const answer of answers) this.end(answer);
    }
  }

  private async sideBySide(answers: readonly Answer[], names: readonly [string, string]): Promise<void> {
    const both = new SideBySide(this.screen.columns);
    const print = (rows: readonly string[]): void => rows.forEach((row) => this.screen.text(`${row}\n`));
    print([both.beside(`── ${names[0]} ──`, `── ${names[1]} ──`)]);
    const side = async (answer: Answer, i: 0 | 1): Promise<void> => {
      for await (const { text } of answer) print(both.push(i, text));
      print(both.end(i));
    };
    await Promise.all([side(answers[0]!, 0), side(answers[1]!, 1)]);
  }

  /** Ends the answers that are being given. @returns false: there are none */
  stop(): boolean {
    for (const answer of this.running) answer.cancel();
    return this.running.size > 0;
  }

  /** @throws ConfigError nobody has this name */
  adapterNamed(name: string): string | null {
    if (name === BASE) return null;
    const names = this.talker.adapters.map((a) => a.name);
    if (names.includes(name)) return name;
    const near = nearest(name, [...names, BASE]);
    throw new ConfigError(
      `no adapter "${name}": ${near === undefined ? `there are ${[BASE, ...names].join(", ")}` : `did you mean ${near}?`}`,
      { where: { key: "adapter" } },
    );
  }

  private lastQuestion(): { readonly content: string; readonly at: number } {
    const at = this.messages.findLastIndex((m) => m.role === "user");
    const content = this.messages[at]?.content;
    if (typeof content === "string") return { content, at };
    throw new DataError("there is no question yet", { where: { key: "messages" } });
  }

  private nextSeed(): number {
    return (this.options.seed ?? 1) + this.answers++;
  }

  private begin(messages: readonly Message[], adapter: string | null, seed = this.nextSeed()): Answer {
    const system = this.system === null ? [] : [{ role: "system", content: this.system }];
    const answer = this.talker.chat([...system, ...messages], { ...this.options, seed, adapter });
    this.running.add(answer);
    return answer;
  }
  private end(answer: Answer): void {
    answer.cancel();
    this.running.delete(answer);
  }

  /** An answer as it comes. @param measured it begins now, and alone. @returns its text */
  private async show(answer: Answer, write: (piece: string) => void, measured = true): Promise<string> {
    const begun = performance.now();
    let first = begun;
    let tokens = 0;
    let said = "";
    try {
      for await (const piece of answer) {
        if (tokens === 0) first = performance.now();
        tokens += piece.tokens.length;
        said += piece.text;
        write(piece.text);
      }
      if (!said.endsWith("\n")) write("\n");
      const { ids, finishReason } = await answer.result();
      const now = performance.now();
      const rate = measured && ids.length > 1 && now > first ? `, ${((1000 * (ids.length - 1)) / (now - first)).toFixed(1)} tokens/s` : "";
      const why = finishReason === "length" ? ", ended by the most tokens of an answer" : finishReason === "cancelled" ? ", stopped" : "";
      const begin = measured ? `, the first after ${duration((first - begun) / 1000)}` : "";
      this.screen.aside(`${ids.length} tokens${begin}${rate}${why}`);
    } finally {
      this.end(answer);
    }
    return said;
  }
}
