// The model card of an adapter, whole: with everything that an adapter can know about itself, and with nothing of it.
// Run alone: npx vitest run test/adapter/card.test.ts
import { expect, it } from "vitest";
import type { CardFacts } from "../../lib/adapter/card.ts";
import { modelCard } from "../../lib/adapter/card.ts";
import { ExpertSet } from "../../lib/experts/expert_set.ts";

const full: CardFacts = {
  method: { type: "esft", p: 0.2 },
  base: { name: 'org/"tiny"', identity: { fingerprint: "ab".repeat(32), tensors: 3, bytes: 12 } },
  createdBy: "esft 1.2.3",
  training: { steps: 20, loss: null, data: "a|b\nc", files: ["x|y"], nested: { k: 1 } },
  frozenDigest: "cd".repeat(32),
  experts: new ExpertSet({ layers: [[1, { ranked: [2, 0] }], [2, { ranked: [] }]], rule: { score: "token", p: 0.2, groupSize: 2 } }), // prettier-ignore
  tensors: { size: 6 },
  attached: { size: 0 },
  parameters: 1234567,
  bytes: 4938268,
};
const { training: _, frozenDigest: __, ...known } = full;
const bare: CardFacts = { ...known, method: { type: "full" }, base: { identity: null }, experts: null };
const text = (...lines: string[]): string => `${lines.join("\n")}\n`;
const commands = ["```", "esft eval  BASE --adapter THIS_FOLDER --data test.jsonl"];
const replaces = "They replace the tensors of the same names in the base model; everything else is unchanged.";

it("tells what is known, in tables that no value can break", () => {
  expect(modelCard(full)).toBe(
    text(
      "---",
      "library_name: esft",
      "tags: [mixture-of-experts, esft]",
      'base_model: "org/\\"tiny\\""',
      "---",
      "",
      '# esft adapter for org/"tiny"',
      "",
      `6 trained tensors, 1,234,567 parameters, 4.9 MB. ${replaces}`,
      "",
      "| | |",
      "|---|---|",
      `| base fingerprint | \`${"ab".repeat(32)}\` |`,
      `| digest of frozen weights | \`${"cd".repeat(32)}\` |`,
      "| made by | esft 1.2.3 |",
      "",
      ...commands,
      "esft merge BASE --adapter THIS_FOLDER -o MERGED",
      "```",
      "",
      "## Experts",
      "",
      "2 experts, selected by this rule: token scores up to p = 0.2, in groups of 2 neighbours.",
      "",
      "| layer | experts |",
      "|---|---|",
      "| 1 | 0, 2 |",
      "| 2 | none |",
      "",
      "## Training",
      "",
      "| | |",
      "|---|---|",
      "| steps | 20 |",
      "| loss | null |",
      "| data | a\\|b c |",
      '| files | ["x\\|y"] |',
      '| nested | {"k":1} |',
    ),
  );
});

it("leaves out what is not known, and what attached tensors do not allow", () => {
  const head = ["---", "library_name: esft", "tags: [mixture-of-experts, esft]", "---", "", "# full adapter", ""];
  const table = ["", "| | |", "|---|---|", "| made by | esft 1.2.3 |", ""];
  const counted = (n: number) => `${n} trained tensors, 1,234,567 parameters, 4.9 MB.`;
  const merge = "esft merge BASE --adapter THIS_FOLDER -o MERGED";
  expect(modelCard(bare)).toBe(text(...head, `${counted(6)} ${replaces}`, ...table, ...commands, merge, "```"));
  expect(modelCard({ ...bare, experts: new ExpertSet({ layers: [[1, { ranked: [] }]] }) })).toBe(modelCard(bare));
  expect(modelCard({ ...bare, experts: new ExpertSet({ layers: [[1, { ranked: [3] }]] }) })).toContain("\n1 experts.\n");
  const beside = "stand beside the base model's weights, which stay as they are.";
  const attached = { ...bare, attached: { size: 4 } };
  const both =
    "6 of them replace the tensors of the same names in the base model, 4 stand beside weights of it; everything else is unchanged.";
  expect(modelCard(attached)).toBe(text(...head, `${counted(10)} ${both}`, ...table, ...commands, "```"));
  expect(modelCard({ ...attached, tensors: { size: 0 } })).toBe(
    text(...head, `${counted(4)} They ${beside}`, ...table, ...commands, "```"),
  );
});

it.each([
  ["train", "trained"],
  ["lora", "a low-rank term beside each"],
  ["ste", "trained by the straight-through gradient"],
])("says that routers train: %s", (router, words) => {
  expect(modelCard({ ...bare, method: { type: "esft", router } })).toContain(`\n| routers | ${router}: ${words} |\n`);
  expect(modelCard({ ...bare, method: { type: "esft", router: "frozen" } })).not.toContain("routers");
});
