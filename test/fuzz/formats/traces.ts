// Router traces: whatever is accepted counts exactly what the files say.

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Profile } from "../../../lib/experts/profile.ts";
import { readTraces } from "../../../lib/experts/traces.ts";
import type { Case, Format } from "../case.ts";
import { difference, mutateBytes } from "../case.ts";

const FILES = ["expert_weights_1.txt", "expert_weights_2.txt"] as const;
const [K, E] = [2, 8];

export const traces: Format = {
  name: "traces",
  async open(dir) {
    mkdirSync(dir, { recursive: true });
    // Two tokens a line, of two experts each: short, so that steps hit what matters.
    const line = (seed: number): string => {
      const ids = [seed % 8, (seed + 3) % 8, (seed * 5) % 8, (seed * 5 + 1) % 8];
      return `${ids.join("\t")}\t\t${ids.map((id) => ((id * 1237 + seed * 311) % 10000) / 10000).join("\t")}`;
    };
    const small = FILES.map((_, f) => Buffer.from(Array.from({ length: 4 }, (__, i) => `${line(i * 3 + f)}\n`).join("")));
    const large = FILES.map((name) => readFileSync(join("test/fixtures/traces", name)));
    return (dice): Case => {
      const which = dice.top.below(2);
      const given = dice.top.once(2) ? { topK: K, experts: E } : {};
      const files = [...(dice.top.once(4) && given.topK === undefined ? large : small)];
      const { bytes, steps, same } = mutateBytes(files[which]!, dice);
      files[which] = Buffer.from(bytes);
      return {
        steps,
        same: same && given.topK !== undefined,
        files: Object.fromEntries(FILES.map((name, i) => [name, files[i]!])),
        file: dir,
        parse: () => {
          FILES.forEach((name, i) => writeFileSync(join(dir, name), files[i]!));
          return readTraces(dir, given);
        },
        judge: (profile: Profile) => judge(files, profile),
      };
    };
  },
};

/** Sums of what is between the tabs. */
function judge(files: readonly Buffer[], profile: Profile): string | null {
  const { topK, experts, layers, sequences } = profile.data;
  for (const [f, bytes] of files.entries()) {
    const counts = new Array<number>(experts).fill(0);
    const gateSums = new Array<number>(experts).fill(0);
    const lines = bytes.toString("latin1").split("\n");
    if (lines.at(-1) === "") lines.pop();
    let slots = 0;
    for (const text of lines) {
      const [ids = [], , weights = []] = text.split(/(\t\t)/).map((part) => part.split("\t"));
      for (const [i, id] of ids.entries()) {
        counts[Number(id)]! += 1;
        gateSums[Number(id)]! += Number(weights[i]);
        slots++;
      }
    }
    const { counts: c, gateSums: g, tokens } = layers[f]!;
    const d = difference(
      { counts, tokens: slots / topK, sequences: lines.length, gateSums },
      { counts: c, tokens, sequences, gateSums: g },
      FILES[f],
    );
    if (d !== null) return d;
  }
  return null;
}
