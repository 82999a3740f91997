// README.md of an adapter directory: what it is, what it needs, how it was made. Numbers come from the adapter itself.
import type { Adapter } from "./adapter.ts";

export function modelCard(adapter: Adapter): string {
  const { base, experts, training, method } = adapter;
  const lines = [
    "---",
    "library_name: esft",
    "tags: [mixture-of-experts, esft]",
    ...(base.name ? [`base_model: ${JSON.stringify(base.name)}`] : []),
    "---",
    "",
    `# ${method.type} adapter${base.name ? ` for ${base.name}` : ""}`,
    "",
    `${adapter.tensors.size} trained tensors, ${adapter.parameters.toLocaleString("en")} parameters, ${(adapter.bytes / 1e6).toFixed(1)} MB. They replace the tensors of the same names in the base model; everything else is unchanged.`,
    "",
    "| | |",
    "|---|---|",
    ...(base.identity ? [`| base fingerprint | \`${base.identity.fingerprint}\` |`] : []),
    ...(adapter.frozenDigest ? [`| digest of frozen weights | \`${adapter.frozenDigest}\` |`] : []),
    `| made by | ${adapter.createdBy} |`,
    "",
    "```",
    "esft eval  BASE --adapter THIS_FOLDER --data test.jsonl",
    "esft merge BASE --adapter THIS_FOLDER -o MERGED",
    "```",
  ];
  if (experts && experts.count > 0) {
    lines.push(
      "",
      "## Experts",
      "",
      `${experts.count} experts${experts.rule ? `, selected by \`${JSON.stringify(experts.rule)}\`` : ""}.`,
      "",
      "| layer | experts |",
      "|---|---|",
    );
    for (const [layer, { ids }] of experts.layers) lines.push(`| ${layer} | ${ids.join(", ") || "none"} |`);
  }
  if (training) {
    lines.push("", "## Training", "", "| | |", "|---|---|");
    for (const [key, value] of Object.entries(training))
      lines.push(`| ${key} | ${typeof value === "string" ? value.replaceAll("|", "\\|") : JSON.stringify(value)} |`);
  }
  return `${lines.join("\n")}\n`;
}
