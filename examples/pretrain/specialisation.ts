// Do experts specialise? Of the experts that one domain uses most, how many another domain has among its own: the matrix of domains, and of tasks.
//   npx tsx examples/pretrain/specialisation.ts
import { join } from "node:path";
import { MoeModel } from "../../lib/index.ts";
import { meanShared, overlapTable, sharedExperts } from "../miniature/overlap.ts";
import { DOMAINS } from "./domains/index.ts";
import { TASKS } from "./tasks/index.ts";

const folder = join(import.meta.dirname, "../embedded");
await using model = await MoeModel.fromPretrained(folder);
for (const [names, file] of [
  [DOMAINS.map(({ name }) => name), (name: string) => `domains/${name}.jsonl`],
  [TASKS.map(({ name }) => name), (name: string) => `${name}.train.jsonl`],
] as const) {
  const profiles = [];
  for (const name of names)
    profiles.push(await model.profile(join(folder, "data", file(name)), { tokens: 16_384, seed: 1, data: { maxLength: 256 } }));
  const shared = sharedExperts(profiles);
  console.log(`${overlapTable(names, shared)}\nMean over different ones: ${meanShared(shared).toFixed(2)}.\n`);
  for (const [i, p] of profiles.entries()) {
    const counts = [0.2, 0.35, 0.5].map((x) => `p ${x}: ${p.select({ score: "token", p: x }).count}`);
    console.log(`${names[i]}: experts of ${p.expertCount} by ${counts.join(", ")}`);
  }
}
