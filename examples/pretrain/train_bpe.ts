// Trains the tokenizer of the embedded model on generated text and writes its Hugging Face files.
//   npx tsx examples/pretrain/train_bpe.ts [--out examples/embedded] [--rows 3000]
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { SPLITS, pretokenize, trainBpe, type BpeModel } from "./bpe.ts";
import { CHAT_TEMPLATE, SPECIALS } from "./chat_format.ts";
import { DOMAINS, generate } from "./domains/index.ts";

const VOCAB_SIZE = 2048;

// Chinese has many characters, each rare: its text weighs more, so that the frequent ones become single tokens.
const TEXT_WEIGHT: Readonly<Record<string, number>> = { prose_zh: 10 };

/** Counted pieces of `rows` training rows of every domain. */
function countPieces(rows: number): Map<string, number> {
  const pieces = new Map<string, number>();
  for (const { name } of DOMAINS) {
    for (const row of generate(name, 1, rows * (TEXT_WEIGHT[name] ?? 1))) {
      const texts = "text" in row ? [row.text] : row.messages.map((message) => message.content);
      for (const text of texts) {
        for (const piece of pretokenize(text)) pieces.set(piece, (pieces.get(piece) ?? 0) + 1);
      }
    }
  }
  return pieces;
}

function tokenizerJson({ tokens, merges }: BpeModel): unknown {
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: SPECIALS.map((content, id) => ({ id, content, ...flags })),
    normalizer: null,
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: [
        ...SPLITS.map((source) => ({ type: "Split", pattern: { Regex: source }, behavior: "Isolated", invert: false })),
        { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false },
      ],
    },
    // Encoding "with special tokens" puts the document start in front; chat text is encoded without, its template writes it.
    post_processor: {
      type: "TemplateProcessing",
      single: [{ SpecialToken: { id: "<|bos|>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
      pair: [
        { SpecialToken: { id: "<|bos|>", type_id: 0 } },
        { Sequence: { id: "A", type_id: 0 } },
        { SpecialToken: { id: "<|bos|>", type_id: 1 } },
        { Sequence: { id: "B", type_id: 1 } },
      ],
      special_tokens: { "<|bos|>": { id: "<|bos|>", ids: [SPECIALS.indexOf("<|bos|>")], tokens: ["<|bos|>"] } },
    },
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges,
    },
  };
}

const { values } = parseArgs({
  options: { out: { type: "string", default: "examples/embedded" }, rows: { type: "string", default: "3000" } },
});
const started = performance.now();
const model = trainBpe(countPieces(Number(values.rows)), { specials: SPECIALS, vocabSize: VOCAB_SIZE });
const write = (name: string, value: unknown, indent?: number): void =>
  writeFileSync(join(values.out, name), `${JSON.stringify(value, null, indent)}\n`);
mkdirSync(values.out, { recursive: true });
write("tokenizer.json", tokenizerJson(model), 1);
write(
  "tokenizer_config.json",
  {
    tokenizer_class: "PreTrainedTokenizerFast",
    add_bos_token: true,
    add_eos_token: false,
    bos_token: "<|bos|>",
    eos_token: "<|end|>",
    pad_token: "<|pad|>",
    clean_up_tokenization_spaces: false,
    model_max_length: 1024,
    chat_template: CHAT_TEMPLATE,
  },
  2,
);
write("special_tokens_map.json", { bos_token: "<|bos|>", eos_token: "<|end|>", pad_token: "<|pad|>" }, 2);
console.log(
  `${model.tokens.length} tokens, ${model.merges.length} merges in ${((performance.now() - started) / 1000).toFixed(1)} s -> ${values.out}`,
);
