// The official ESFT format: its chat template, encoding and packing, token for token as deepseek-ai/ESFT's utils.py makes them.

import { refuse } from "./flags.ts";
import { IGNORE, type Encoded } from "./masks.ts";
import { pythonStrip } from "../text/python_text.ts";
import type { Message } from "../text/template.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { ConfigError } from "../errors.ts";

/**
 * BOS once (its label is BOS, not −100); user: "User: <text>\n\nAssistant:", not supervised; assistant: " <text>" + EOS, supervised
 * unless the message has mask 1 (or train false). Each piece is encoded on its own; texts are stripped as Python strips.
 */
export async function encodeEsft(messages: readonly Message[], tokenizer: Tokenizer): Promise<Encoded> {
  const { bosId, eosId } = tokenizer;
  if (bosId === null || eosId === null) {
    throw new ConfigError(`the ESFT format needs a bos_token and an eos_token; the tokenizer in ${tokenizer.dir} lacks one`, {
      where: { file: tokenizer.dir },
    });
  }
  const inputIds: number[] = messages.length === 0 ? [] : [bosId];
  const labels = [...inputIds];
  for (const [i, message] of messages.entries()) {
    const key = `messages[${i}]`;
    const { role, content } = message;
    if (role !== "user" && role !== "assistant")
      refuse("role", `${key}.role`, `the ESFT format knows user and assistant, not ${JSON.stringify(role)}`);
    if (typeof content !== "string") return refuse("type", `${key}.content`, "the ESFT format needs a text");
    const text = pythonStrip(content);
    const piece =
      role === "user" ? await tokenizer.encode(`User: ${text}\n\nAssistant:`) : [...(await tokenizer.encode(` ${text}`)), eosId];
    const learn = role === "assistant" && message["mask"] !== 1 && message["mask"] !== true && message["train"] !== false;
    for (const id of piece) {
      inputIds.push(id);
      labels.push(learn ? id : IGNORE);
    }
  }
  return { inputIds, labels };
}

interface EsftPackingOptions {
  readonly length: number;
  /** Probability of dropping the first token of an example that does not begin a row (random_concat_ratio). */
  readonly ratio: number;
  readonly padId: number;
  /** A float in [0, 1): Python's random.random() for the official rows (mt19937.ts). */
  readonly draw: () => number;
}

/**
 * get_examples_from_buffer_pad: examples in order, concatenated into rows of `length`. An example too long for the row's room keeps
 * its last tokens; the draw happens whenever the row is not empty, also for an empty example; the last row is emitted padded, even
 * when it is nothing but padding. Rows attend across examples: this is the paper's packing, not ours.
 */
export function* packEsft(examples: Iterable<Encoded>, options: EsftPackingOptions): Generator<Encoded> {
  const { length, ratio, padId, draw } = options;
  let inputIds: number[] = [];
  let labels: number[] = [];
  for (const example of examples) {
    const room = length - inputIds.length;
    let start = Math.max(0, example.inputIds.length - room);
    if (inputIds.length > 0 && draw() < ratio) start++;
    for (let t = start; t < example.inputIds.length; t++) {
      inputIds.push(example.inputIds[t] as number);
      labels.push(example.labels[t] as number);
    }
    if (inputIds.length >= length) {
      yield { inputIds, labels };
      inputIds = [];
      labels = [];
    }
  }
  while (inputIds.length < length) {
    inputIds.push(padId);
    labels.push(IGNORE);
  }
  yield { inputIds, labels };
}
