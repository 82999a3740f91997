// The rows beside the embedded model (examples/embedded/data): training, validation and test rows of every task, and test rows of every
// pretraining domain. None of their contents is in the pretraining text (pretrain/domains/index.ts splits by content).
//   npx tsx examples/build_demo_data.ts
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { DOMAINS, generate, SPLITS } from "./pretrain/domains/index.ts";
import type { Row } from "./pretrain/domains/index.ts";
import { TASKS } from "./pretrain/tasks/index.ts";

const SEED = 1;
const TASK_ROWS = { train: 1000, validation: 80, test: 120 } as const;
const DOMAIN_ROWS = 60;

const out = join(import.meta.dirname, "embedded", "data");
rmSync(out, { recursive: true, force: true });
mkdirSync(join(out, "domains"), { recursive: true });
const write = (path: string, rows: readonly Row[]): void => writeFileSync(join(out, path), rows.map((row) => `${JSON.stringify(row)}\n`).join(""));

for (const { name } of TASKS)
  for (const split of SPLITS) write(`${name}.${split}.jsonl`, generate(name, SEED, TASK_ROWS[split], split));
for (const { name } of DOMAINS) {
  const chats = generate(name, SEED, 4 * DOMAIN_ROWS, "test").filter((row) => "messages" in row);
  write(`domains/${name}.jsonl`, chats.slice(0, DOMAIN_ROWS));
}
