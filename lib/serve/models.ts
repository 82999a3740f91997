// Names, and how an answer is made on a name: the one thing that the server knows of models. Here: one model, which keeps its adapters
// beside the base and decodes answers of all names side by side (adapter/resident.ts, generate/engine.ts).

import { ConfigError } from "../errors.ts";
import type { GeneratedPiece, GenerationResult } from "../generate/generation.ts";
import type { GenerateInput } from "../generate/options.ts";
import type { ChatOptions } from "../generate/prompt.ts";
import type { MoeModel } from "../moe_model.ts";
import { throwIfAborted } from "../task.ts";
import type { LongTask } from "../task.ts";
import type { Message } from "../text/template.ts";
import type { Tokenizer } from "../text/tokenizer.ts";

/** One answer on its way (generate/generation.ts). */
export interface Answer extends AsyncIterable<GeneratedPiece> {
  result(): Promise<GenerationResult>;
  cancel(): void;
}

export interface Models {
  /** The first is the base. */
  readonly names: readonly string[];
  readonly maxPositions: number;
  readonly vocab: number;
  /** The chat template of every conversation. */
  readonly template: ChatOptions["template"];
  /** What an answer depends on beside the request: device and precision. */
  readonly fingerprint: string;
  tokenizer(): Promise<Tokenizer>;
  generate(name: string, prompt: readonly number[], options: GenerateInput): Answer;
  chat(name: string, messages: readonly Message[], options: GenerateInput & ChatOptions): Answer;
  /** Sequences that are decoded or wait for a place, and the latter alone. */
  readonly load: { readonly active: number; readonly waiting: number };
}

export interface ServedAdapter {
  readonly name: string;
  readonly dir: string;
}

export interface OneModelOptions extends Pick<LongTask, "signal"> {
  readonly template?: ChatOptions["template"];
}

export class OneModel implements Models {
  readonly names: readonly string[];
  readonly template: ChatOptions["template"];
  private readonly model: MoeModel;

  private constructor(model: MoeModel, adapters: readonly string[], { template = "tokenizer" }: OneModelOptions) {
    this.model = model;
    this.names = [model.name, ...adapters];
    this.template = template;
  }

  /**
   * Puts every adapter on the device and makes a token with it, so that one which cannot be used is known now.
   * @throws ConfigError names that are no names, or twice · AbortError · what reading an adapter throws
   */
  static async open(model: MoeModel, adapters: readonly ServedAdapter[] = [], options: OneModelOptions = {}): Promise<OneModel> {
    const names: string[] = [];
    for (const { name, dir } of adapters) {
      throwIfAborted(options.signal, "reading the adapters");
      if (!/^[\w.:@+-]+(\/[\w.:@+-]+)*$/.test(name))
        throw new ConfigError(`an adapter's name has letters, digits and _ . : @ + - and / between them, found ${JSON.stringify(name)}`, {
          where: { key: "adapter" },
        });
      if (name === model.name || names.includes(name))
        throw new ConfigError(
          `the name ${name} is used twice${name === model.name ? " (it is the base's)" : ""}; give the adapter another`,
          {
            where: { key: "adapter" },
          },
        );
      await model.adapters.add(name, dir);
      await model.generate([0], { adapter: name, maxTokens: 1 }).result();
      names.push(name);
    }
    return new OneModel(model, names, options);
  }

  get maxPositions(): number {
    return this.model.spec.maxPositions;
  }
  get vocab(): number {
    return this.model.spec.vocab;
  }
  get fingerprint(): string {
    const { backend, instructionSet } = this.model.device.info;
    return `esft-${backend}-${instructionSet}-${this.model.transformer.precision}`;
  }
  get load(): Models["load"] {
    return this.model.load;
  }
  tokenizer(): Promise<Tokenizer> {
    return this.model.tokenizer();
  }

  generate(name: string, prompt: readonly number[], options: GenerateInput): Answer {
    return this.model.generate(prompt, { ...options, adapter: this.adapterOf(name), text: true });
  }
  chat(name: string, messages: readonly Message[], options: GenerateInput & ChatOptions): Answer {
    return this.model.chat(messages, { ...options, adapter: this.adapterOf(name) });
  }
  private adapterOf(name: string): string | null {
    return name === this.names[0] ? null : name;
  }
}
