// Does the server hold: npm run soak:serve [-- --minutes N] [--streams N] [--seed S]
//   --minutes   how long (10)
//   --streams   clients at once (200)
//   --seed      of their requests and of when they go away
//
// The embedded model with two adapters; clients stream answers of all three names, a third of them goes away in the middle. Every answer
// that is finished must be the one given alone; memory, handles and threads must stay flat (test/support/leaks.ts). Exit 1 otherwise. Linux.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { hammer } from "../test/serve/clients.ts";
import { makeAdapters, serveEmbedded } from "../test/serve/support.ts";
import { flat, growth, look } from "../test/support/leaks.ts";
import type { Held, Quantity } from "../test/support/leaks.ts";
import { stop } from "./run.ts";

const { values } = parseArgs({
  options: {
    minutes: { type: "string", default: "10" },
    streams: { type: "string", default: "200" },
    seed: { type: "string", default: "soak" },
  },
});
const number = (text: string): number =>
  /^\d+(\.\d+)?$/.test(text) && Number(text) > 0 ? Number(text) : stop("soak", `expected a number, received "${text}"`);
const [minutes, streams] = [number(values.minutes), number(values.streams)];

const folder = mkdtempSync(path.join(tmpdir(), "esft-soak-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
const served = await serveEmbedded(await makeAdapters(folder), { maxQueue: 2 * streams });

/** Rounds with a look after each, when nothing is on its way. */
const ROUNDS = 24;
const samples: Held[] = [];
let [finished, left, refused] = [0, 0, 0];
const wrong: string[] = [];
const started = performance.now();
for (let round = 0; round < ROUNDS; round++) {
  const ms = (minutes * 60_000) / ROUNDS;
  const load = { names: ["booking", "other"], streams, ms, seed: `${values.seed} ${round}`, tokens: 24, leaving: 1 / 3 };
  const outcome = await hammer(served, load);
  finished += outcome.finished;
  left += outcome.left;
  refused += outcome.refused;
  wrong.push(...outcome.wrong);
  samples.push(await look());
  const { rss, handles } = samples.at(-1)!;
  console.log(
    `round ${round + 1}: ${finished} answers, ${left} clients went away, ${refused} refused, ${wrong.length} wrong, RSS ${(rss / 2 ** 20).toFixed(1)} MB, ${handles} handles`,
  );
}
console.log(
  `${finished} answers in ${((performance.now() - started) / 60_000).toFixed(1)} minutes, ${served.errors.length} errors of the server`,
);
for (const text of [...wrong, ...served.errors.map(String)].slice(0, 20)) console.log(`  ${text}`);

let failed = wrong.length + served.errors.length > 0;
const { active, waiting } = served.models.load;
if (active + waiting > 0) {
  console.log(`${active} sequences are still decoded, ${waiting} wait`);
  failed = true;
}
for (const [key, g] of Object.entries(growth(samples))) {
  // Sockets of clients that have gone close when they close: handles are bounded, not equal.
  const quantity = key as Quantity;
  const most = quantity === "handles" ? streams : flat[quantity];
  const ok = g.rise <= most;
  console.log(`  ${ok ? "flat " : "GROWS"} ${quantity.padEnd(9)} ${g.first} → ${g.last}, rise ${g.rise.toFixed(0)} (flat up to ${most})`);
  failed ||= !ok;
}
await served.close();
process.exitCode = failed ? 1 : 0;
