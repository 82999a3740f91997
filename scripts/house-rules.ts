// The rules of the house for lib, all of them; scripts/check-house.ts proves them in `npm run check`.
//
// 1. Arrows point down. A part is a file of lib or a folder with all that it holds ("ops" is lib/ops.ts and lib/ops/). A part may
//    import itself and what its line names, by any form of import, types included; a line may name parts of earlier lines only.
// 2. No circle between files, not inside a part either.
// 3. Names of model families, and of tensors in their checkpoints, are spelled in lib/model/families alone.

const ground = ["errors", "debug", "floats", "format", "task", "options", "arguments"];
const model = [
  "model/spec",
  "model/families",
  "model/slots",
  "model/weights",
  "model/rope_table",
  "model/states",
  "model/run",
  "model/layers",
  "model/batch",
  "model/decoder",
  "model/non_finite",
  "model/transformer",
];
/** What the parts above the model share: the ground, what knows no device, the addon and the model. */
const below = [...ground, "files", "hub", "text", "data", "answers", "native", "tensor", "quantised", "ops", "device", "dist", ...model];

/** What stands on the model, up to what a user does with it. */
const parts = [
  "experts",
  "generate",
  "methods",
  "adapter",
  "convert",
  "train",
  "inspect",
  "plan",
  "moe_model",
  "logits_check",
  "evaluate_answers",
  "compare",
];

/** Part: what it may import. From the ground up. */
export const arrows: Readonly<Record<string, readonly string[]>> = {
  errors: [],
  debug: [],
  floats: [],
  format: [],
  task: ["errors"],
  options: ["errors"],
  arguments: ["errors", "options"],

  // They stand beside the model and know no device.
  http: ["errors", "task"],
  files: ground,
  hub: [...ground, "files"],
  text: [...ground, "files", "hub"],
  data: [...ground, "files", "text"],
  answers: [...ground, "files", "text", "data"],

  // The addon.
  native: ["errors"],
  tensor: ["errors", "floats", "arguments", "native"],
  quantised: [...ground, "files", "tensor"],
  ops: ["errors", "native", "tensor"],
  device: ["errors", "debug", "options", "arguments", "native", "tensor", "ops"],
  dist: [...ground, "native", "tensor", "ops", "device"],

  "model/spec": ["errors", "files", "ops"],
  "model/families": ["errors", "arguments", "files", "model/spec"],
  "model/slots": ["errors", "tensor"],
  "model/weights": [...ground, "files", "tensor", "quantised", "ops", "model/spec"],
  "model/rope_table": ["tensor", "model/spec"],
  "model/states": ["tensor"],
  "model/run": ["errors", "tensor", "ops", "model/slots", "model/rope_table", "model/states"],
  "model/layers": [
    "errors",
    "files",
    "tensor",
    "ops",
    "model/spec",
    "model/slots",
    "model/weights",
    "model/rope_table",
    "model/states",
    "model/run",
  ],
  "model/batch": ["errors", "tensor", "model/run"],
  "model/decoder": [
    "errors",
    "tensor",
    "ops",
    "model/spec",
    "model/slots",
    "model/weights",
    "model/rope_table",
    "model/states",
    "model/run",
    "model/layers",
  ],
  "model/non_finite": ["errors"],
  "model/transformer": [...ground, "files", "tensor", "ops", ...model.slice(0, -1)],

  experts: below,
  generate: below,
  methods: [...below, "experts"],
  adapter: [...below, "experts"],
  convert: [...below, "experts", "methods", "adapter"],
  train: [...below, "experts", "methods", "adapter"],
  inspect: [...below, "experts", "methods", "train"],
  plan: [...below, "experts", "methods", "train", "inspect"],
  moe_model: [...below, "experts", "generate", "methods", "adapter", "convert", "train"],
  logits_check: [...below, "adapter", "moe_model"],
  evaluate_answers: [...below, "generate", "adapter", "moe_model"],
  compare: [...below, "experts", "generate", "methods", "adapter", "convert", "train", "moe_model", "evaluate_answers"],
  report: [...below, "http", "experts", "methods", "adapter", "train", "inspect", "moe_model", "compare"],
  serve: [...below, "http", "experts", "generate", "methods", "adapter", "train", "inspect", "moe_model"],
  index: [...below, ...parts, "report"],
  cli: [...below, ...parts, "report", "serve"],
};

/** The folder that alone spells names of families and tensors, and the one file of it that others import. */
export const families = { folder: "lib/model/families/", door: "lib/model/families/index.ts" };

/** How checkpoints spell their tensors, in any text of the code. */
export const tensorNames: readonly RegExp[] = [
  /\w_proj\b/,
  /\bself_attn\b/,
  /\blm_head\b/,
  /\bembed_tokens\b/,
  /layernorm\b/,
  /shared_(?:experts?|mlp)\\?\./,
  /(?:^|\W)(?:model|decoder)\\?\.layers\b/,
  /\.mlp\./,
  // "…experts.3.", also as a pattern or the beginning of a template; not "law.experts.json".
  /(?:^|\.)experts\\?\.(?:\d|\(|\[|\*|\\|$)/,
];
