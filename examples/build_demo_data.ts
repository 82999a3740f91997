// The rows of the demo (examples/embedded/data): the held-out task and evaluation rows of every pretraining domain. None of
// their contents is in the pretraining text (pretrain/domains/index.ts splits by content).
//   npx tsx examples/build_demo_data.ts
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { DOMAINS, TASK, generate } from "./pretrain/domains/index.ts";
import type { Row } from "./pretrain/domains/index.ts";

const SEED = 1;
const TASK_ROWS = { train: 800, eval: 100 } as const;
const DOMAIN_ROWS = 60;

const out = join(import.meta.dirname, "embedded", "data");
rmSync(out, { recursive: true, force: true });
mkdirSync(join(out, "domains"), { recursive: true });
const write = (path: string, rows: readonly Row[]): void => writeFileSync(join(out, path), rows.map((row) => `${JSON.stringify(row)}\n`).join(""));

for (const split of ["train", "eval"] as const) write(`${TASK.name}.${split}.jsonl`, generate(TASK.name, SEED, TASK_ROWS[split], split));
for (const { name } of DOMAINS) {
  const chats = generate(name, SEED, 4 * DOMAIN_ROWS, "eval").filter((row) => "messages" in row);
  write(`domains/${name}.jsonl`, chats.slice(0, DOMAIN_ROWS));
}
