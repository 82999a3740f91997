// Corpus rows to token ids and labels. The `{"text"}` shape is pretraining's own (datasets for fine-tuning refuse it), and
// pretraining may learn from prompts as well as from answers: hence this small encoder beside the library's datasets.
import { loadTokenizer } from "../../lib/text/tokenizer.ts";
import { SPECIALS } from "./chat_format.ts";
import type { Row } from "./domains/types.ts";

const IGNORED = -100;
const ID = Object.fromEntries(SPECIALS.map((token, id) => [token, id])) as Record<(typeof SPECIALS)[number], number>;

export interface EncodedRow {
  readonly ids: readonly number[];
  /** Aligned with ids; -100 where nothing is learned. The shift by one belongs to the loss. */
  readonly labels: readonly number[];
}

export interface RowEncoder {
  /** `learnPrompts`: user turns of conversations are learned too (default false: answers and their <|end|> only). */
  readonly encode: (row: Row, options?: { readonly learnPrompts?: boolean }) => Promise<EncodedRow>;
  readonly decode: (ids: readonly number[]) => string;
  readonly vocabSize: number;
}

/** An encoder over the tokenizer files of `folder`. Same ids as rendering the chat template and encoding the whole text. */
export async function rowEncoder(folder: string): Promise<RowEncoder> {
  const tokenizer = await loadTokenizer(folder);
  const encodeText = (text: string): Promise<readonly number[]> => tokenizer.encode(text);
  return {
    async encode(row, { learnPrompts = false } = {}) {
      if ("text" in row) {
        const ids = [ID["<|bos|>"], ...(await encodeText(row.text)), ID["<|end|>"]];
        return { ids, labels: ids };
      }
      const [ids, labels]: [number[], number[]] = [[ID["<|bos|>"]], [IGNORED]];
      for (const { role, content } of row.messages) {
        const body = [...(await encodeText(content)), ID["<|end|>"]];
        const learned = role === "assistant" || learnPrompts;
        // The turn's opening token is given at generation time, so it is never an answer.
        ids.push(ID[`<|${role}|>`], ...body);
        labels.push(learnPrompts ? ID[`<|${role}|>`] : IGNORED, ...(learned ? body : body.map(() => IGNORED)));
      }
      return { ids, labels };
    },
    decode: (ids) => tokenizer.decode([...ids]),
    vocabSize: tokenizer.vocabSize,
  };
}
