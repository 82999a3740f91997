// Proves that tasks and held-out rows need no token that pretraining does not teach: a fine-tuned model would otherwise have to learn rows of
// its embedding and head, which methods that train experts leave as they are, and the comparison of methods would be one of that alone.
import { ConfigError } from "../../lib/errors.ts";
import { generate, SPLITS } from "./domains/index.ts";
import type { Row } from "./domains/types.ts";
import type { RowEncoder } from "./encode_row.ts";

/** So often at least a token is a target of pretraining. */
export const MIN_COUNT = 50;

/** Adds the targets of rows, prompts included, to `counts`: how often each token id was supervised. */
export async function countTargets(rows: readonly Row[], encoder: RowEncoder, counts: Uint32Array): Promise<void> {
  for (const row of rows) {
    const { labels } = await encoder.encode(row, { learnPrompts: true });
    for (const label of labels) if (label >= 0) counts[label]!++;
  }
}

export interface Needed {
  readonly token: string;
  readonly count: number;
  /** A row that needs it. */
  readonly name: string;
  readonly row: string;
}

/** Tokens of the rows of `names` (tasks or domains, all parts, `rows` of each) that were supervised less than MIN_COUNT times. */
export async function untaught(names: readonly string[], rows: number, encoder: RowEncoder, counts: Uint32Array): Promise<Needed[]> {
  const found = new Map<number, Needed>();
  for (const name of names)
    for (const split of SPLITS)
      for (const row of generate(name, 1, split === "train" ? rows : Math.min(rows, 100), split)) {
        const { ids } = await encoder.encode(row);
        for (const id of ids.slice(1))
          // nothing predicts the first
          if (counts[id]! < MIN_COUNT && !found.has(id))
            found.set(id, { token: encoder.decode([id]), count: counts[id]!, name, row: JSON.stringify(row) });
      }
  return [...found.values()].sort((a, b) => a.count - b.count);
}

/** @throws ConfigError the tokens, and where each is needed */
export async function requireTaught(names: readonly string[], rows: number, encoder: RowEncoder, counts: Uint32Array): Promise<void> {
  const missing = await untaught(names, rows, encoder, counts);
  if (missing.length === 0) return;
  const shown = missing.slice(0, 20).map(({ token, count, name, row }) => `  ${JSON.stringify(token)} ${count} times; ${name}: ${row}`);
  throw new ConfigError(
    `expected every token of a task at least ${MIN_COUNT} times in pretraining, found ${missing.length} below; add their words to domains/glossary.ts:\n${shown.join("\n")}`,
  );
}
