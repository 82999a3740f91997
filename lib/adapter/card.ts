// README.md of an adapter directory: what it is, what it needs, how it was made.
import type { ExpertSet } from "../experts/expert_set.ts";
import { ruleWords } from "../experts/rule_words.ts";
import type { AdapterFacts } from "./manifest.ts";

/** Of an Adapter. */
export interface CardFacts extends Pick<AdapterFacts, "method" | "base" | "createdBy" | "training" | "frozenDigest"> {
  readonly experts: ExpertSet | null;
  /** What replaces slices of the base, and what is attached beside its weights. */
  readonly tensors: { readonly size: number };
  readonly attached: { readonly size: number };
  readonly parameters: number;
  readonly bytes: number;
}

export function modelCard(adapter: CardFacts): string {
  const { base, experts, training, method } = adapter;
  const [replaced, attached] = [adapter.tensors.size, adapter.attached.size];
  const mode = ROUTERS[String(method["router"])];
  const lines = [
    "---",
    "library_name: esft",
    "tags: [mixture-of-experts, esft]",
    ...(base.name ? [`base_model: ${JSON.stringify(base.name)}`] : []),
    "---",
    "",
    `# ${method.type} adapter${base.name ? ` for ${base.name}` : ""}`,
    "",
    `${replaced + attached} trained tensors, ${adapter.parameters.toLocaleString("en")} parameters, ${(adapter.bytes / 1e6).toFixed(1)} MB. ${meaning(replaced, attached)}`,
    "",
    "| | |",
    "|---|---|",
    ...(base.revision ? [`| base revision | \`${base.revision}\` |`] : []),
    ...(base.identity ? [`| base fingerprint | \`${base.identity.fingerprint}\` |`] : []),
    ...(adapter.frozenDigest ? [`| digest of frozen weights | \`${adapter.frozenDigest}\` |`] : []),
    ...(mode === undefined ? [] : [`| routers | ${mode} |`]),
    `| made by | ${adapter.createdBy} |`,
    "",
    "```",
    "esft eval  BASE --adapter THIS_FOLDER --data test.jsonl",
    // LoRA is folded into the weights; what stands beside a whole block is not.
    ...(attached > 0 && method.type !== "lora" && method.type !== "esft" ? [] : ["esft merge BASE --adapter THIS_FOLDER -o MERGED"]),
    "```",
  ];
  if (experts && experts.count > 0) {
    const rule = ruleWords(experts.rule);
    lines.push(
      "",
      "## Experts",
      "",
      `${experts.count} experts${rule === null ? "" : `, selected by this rule: ${rule}`}.`,
      "",
      "| layer | experts |",
      "|---|---|",
    );
    for (const [layer, { ids }] of experts.layers) lines.push(`| ${layer} | ${ids.join(", ") || "none"} |`);
  }
  if (training) {
    lines.push("", "## Training", "", "| | |", "|---|---|");
    for (const [key, value] of Object.entries(training)) lines.push(`| ${key} | ${cell(value)} |`);
  }
  return `${lines.join("\n")}\n`;
}

/** The mode of the base's routers, where they train. */
const ROUTERS: Readonly<Record<string, string>> = {
  train: "train: trained",
  lora: "lora: a low-rank term beside each",
  ste: "ste: trained by the straight-through gradient",
};

/** What tensors mean to the base. */
function meaning(replaced: number, attached: number): string {
  if (attached === 0) return "They replace the tensors of the same names in the base model; everything else is unchanged.";
  if (replaced === 0) return "They stand beside the base model's weights, which stay as they are.";
  return (
    `${replaced} of them replace the tensors of the same names in the base model, ${attached} stand beside weights of it; ` +
    "everything else is unchanged."
  );
}

/** A value in a table, whatever characters are in it. */
function cell(value: unknown): string {
  const text = typeof value === "string" ? value : String(JSON.stringify(value));
  return text.replaceAll("|", "\\|").replaceAll("\n", " ");
}
