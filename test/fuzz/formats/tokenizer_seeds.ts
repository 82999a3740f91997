// Tokenizers small enough that a random step hits something that matters: one of each model of the library, with the parts around them
// that published tokenizers have.

type Json = Readonly<Record<string, unknown>>;

const special = (id: number, content: string, more: object = {}) => ({
  id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true, ...more,
}); // prettier-ignore

/** The 256 characters that stand for bytes. */
function byteCharacters(): string[] {
  const plain = [[33, 126], [161, 172], [174, 255]].flatMap(([a = 0, b = 0]) => Array.from({ length: b - a + 1 }, (_, i) => a + i)); // prettier-ignore
  let next = 256;
  return Array.from({ length: 256 }, (_, b) => String.fromCodePoint(plain.includes(b) ? b : next++));
}

const count = (tokens: readonly string[]): Record<string, number> => Object.fromEntries(tokens.map((t, i) => [t, i]));
const parts = {
  version: "1.0",
  truncation: null,
  padding: null,
  normalizer: null,
  pre_tokenizer: null,
  post_processor: null,
  decoder: null,
};
const postProcessor = (id: number) => ({
  type: "TemplateProcessing",
  single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
  pair: [{ Sequence: { id: "A", type_id: 0 } }, { Sequence: { id: "B", type_id: 1 } }],
  special_tokens: { "<s>": { id: "<s>", ids: [id], tokens: ["<s>"] } },
});
const config = {
  bos_token: "<s>", eos_token: { content: "</s>", lstrip: false }, pad_token: null, add_bos_token: true, add_eos_token: false, model_max_length: 1000000000000000019884624838656,
  tokenizer_class: "PreTrainedTokenizerFast", clean_up_tokenization_spaces: false, chat_template: "{{ messages }}",
}; // prettier-ignore
const generation = { bos_token_id: 0, eos_token_id: [1, 2] };

const bytes = byteCharacters();
const byteLevel = {
  ...parts,
  truncation: { direction: "Right", max_length: 4, strategy: "LongestFirst", stride: 0 },
  padding: { strategy: { Fixed: 8 }, direction: "Right", pad_to_multiple_of: null, pad_id: 0, pad_type_id: 0, pad_token: "<s>" },
  added_tokens: [special(259, "<s>"), special(260, "</s>", { rstrip: true }), special(261, "[X]", { special: false, normalized: true, lstrip: true })],
  normalizer: { type: "NFC" },
  pre_tokenizer: {
    type: "Sequence",
    pretokenizers: [
      { type: "Split", pattern: { Regex: "(?i:'s|'t)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|\\s+(?!\\S)|\\s+" }, behavior: "Isolated", invert: false },
      { type: "Digits", individual_digits: true },
      { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false },
    ],
  },
  post_processor: { type: "ByteLevel", add_prefix_space: true, trim_offsets: false, use_regex: true },
  decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
  model: {
    type: "BPE", dropout: null, unk_token: null, continuing_subword_prefix: null, end_of_word_suffix: null, fuse_unk: false, byte_fallback: false, ignore_merges: false,
    vocab: count([...bytes, "he", "ll", "hell"]), merges: [["h", "e"], ["l", "l"], ["he", "ll"]],
  },
}; // prettier-ignore

const pieces = ["<unk>", "<s>", "</s>", "<0x0A>", "<0xC3>", "<0xA9>", "▁", "h", "e", "l", "o", "w", "he", "▁he", "lo", "llo"];
const metaspace = {
  ...parts,
  added_tokens: [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
  normalizer: { type: "Sequence", normalizers: [{ type: "Prepend", prepend: "▁" }, { type: "Replace", pattern: { String: " " }, content: "▁" }] },
  post_processor: postProcessor(1),
  decoder: {
    type: "Sequence",
    decoders: [{ type: "Replace", pattern: { String: "▁" }, content: " " }, { type: "ByteFallback" }, { type: "Fuse" }, { type: "Strip", content: " ", start: 1, stop: 0 }],
  },
  model: {
    type: "BPE", dropout: null, unk_token: "<unk>", continuing_subword_prefix: null, end_of_word_suffix: null, fuse_unk: true, byte_fallback: true,
    vocab: count(pieces), merges: ["h e", "▁ he", "l o", "l lo"],
  },
}; // prettier-ignore

const unigram = {
  ...parts,
  added_tokens: [special(0, "<s>"), special(1, "</s>"), special(2, "<unk>"), special(9, "[X]", { single_word: true })],
  normalizer: { type: "Sequence", normalizers: [{ type: "NFKC" }, { type: "Lowercase" }, { type: "StripAccents" }] },
  pre_tokenizer: { type: "Metaspace", replacement: "▁", prepend_scheme: "always", split: true },
  post_processor: postProcessor(0),
  decoder: { type: "Metaspace", replacement: "▁", prepend_scheme: "always", split: true },
  model: {
    type: "Unigram", unk_id: 2, byte_fallback: false,
    vocab: [["<s>", 0], ["</s>", 0], ["<unk>", 0], ["▁he", -2.5], ["llo", -3.25], ["▁", -2], ["l", -4], ["o", -4.5], ["e", -5]],
  },
}; // prettier-ignore

const wordPiece = {
  ...parts,
  added_tokens: [special(0, "<s>"), special(1, "</s>"), special(2, "[UNK]")],
  normalizer: { type: "BertNormalizer", clean_text: true, handle_chinese_chars: true, strip_accents: null, lowercase: true },
  pre_tokenizer: { type: "Sequence", pretokenizers: [{ type: "BertPreTokenizer" }, { type: "Punctuation", behavior: "Isolated" }, { type: "Whitespace" }] },
  post_processor: { type: "BertProcessing", sep: ["</s>", 1], cls: ["<s>", 0] },
  decoder: { type: "WordPiece", prefix: "##", cleanup: true },
  model: { type: "WordPiece", unk_token: "[UNK]", continuing_subword_prefix: "##", max_input_chars_per_word: 100, vocab: count(["<s>", "</s>", "[UNK]", "he", "##llo", "low", "l", "##l"]) },
}; // prettier-ignore

const wordLevel = {
  ...parts,
  added_tokens: [special(0, "<s>"), special(1, "</s>"), special(5, "[X]")],
  normalizer: { type: "Strip", strip_left: true, strip_right: true },
  pre_tokenizer: { type: "CharDelimiterSplit", delimiter: " " },
  post_processor: { type: "RobertaProcessing", sep: ["</s>", 1], cls: ["<s>", 0], trim_offsets: true, add_prefix_space: true },
  decoder: { type: "BPEDecoder", suffix: "</w>" },
  model: { type: "WordLevel", vocab: count(["<s>", "</s>", "[UNK]", "hello", "he"]), unk_token: "[UNK]" },
};

/** Files by name. */
export const tokenizers: readonly Json[] = [
  { "tokenizer.json": byteLevel, "tokenizer_config.json": config, "special_tokens_map.json": { bos_token: "<s>" }, "generation_config.json": { eos_token_id: [260, 261] } },
  { "tokenizer.json": metaspace, "tokenizer_config.json": { ...config, add_bos_token: false, chat_template: [{ name: "default", template: "a" }, { name: "tool_use", template: "b" }] }, "generation_config.json": generation },
  { "tokenizer.json": unigram, "tokenizer_config.json": { tokenizer_class: "T5TokenizerFast" }, "special_tokens_map.json": { bos_token: "<s>", eos_token: { content: "</s>" }, pad_token: "[X]" }, "generation_config.json": { eos_token_id: 1 } },
  { "tokenizer.json": wordPiece, "tokenizer_config.json": config },
  { "tokenizer.json": wordLevel, "tokenizer_config.json": config, "generation_config.json": generation },
]; // prettier-ignore
