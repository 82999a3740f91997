// model.safetensors.index.json and the shards beside it: whatever is accepted has every tensor of the model, each from the file that the
// index names.

import { copyFileSync, cpSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Checkpoint } from "../../../lib/files/checkpoint.ts";
import { openCheckpoint } from "../../../lib/files/checkpoint.ts";
import { checkpointSpec } from "../../../lib/model/families/index.ts";
import type { Case, Format } from "../case.ts";
import { difference, mutateJson } from "../case.ts";
import { jsonOf, toTree } from "../tree.ts";
import { readJson } from "./seeds.ts";

const INDEX = "model.safetensors.index.json";
const [ONE, TWO] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

/** What can happen to the shards; null for what leaves each one in its place. */
const SHARDS: readonly (readonly [what: string, change: (dir: string) => void])[] = [
  ["the second shard is missing", (dir) => rmSync(join(dir, TWO))],
  ["the shards are exchanged", (dir) => (renameSync(join(dir, ONE), join(dir, "x")), renameSync(join(dir, TWO), join(dir, ONE)), renameSync(join(dir, "x"), join(dir, TWO)))],
  ["the second shard is the first again", (dir) => copyFileSync(join(dir, ONE), join(dir, TWO))],
  ["the first shard is empty", (dir) => writeFileSync(join(dir, ONE), "")],
]; // prettier-ignore

export const index: Format = {
  name: "index",
  async open(dir) {
    const source = "test/fixtures/families/deepseek-v2-lite";
    const own = join(dir, "model");
    cpSync(source, own, { recursive: true });
    const seed = toTree(readJson(join(source, INDEX)));
    const places = (checkpoint: Checkpoint) =>
      new Map(
        [...checkpoint.tensors]
          .sort(([a], [b]) => (a < b ? -1 : 1))
          .map(([name, t]) => [name, [t.file, t.begin, t.end, t.dtype, t.shape.join()]]),
      );
    const whole = places(await openCheckpoint(own));
    const restore = (): void => [ONE, TWO].forEach((file) => copyFileSync(join(source, file), join(own, file)));
    return (dice): Case => {
      const shards = dice.top.once(10) ? dice.top.pick(SHARDS) : null;
      const { bytes, steps, same } = mutateJson(seed, dice);
      if (shards) steps.push(shards[0]);
      return {
        steps,
        files: { [INDEX]: bytes },
        file: own,
        same: same && shards === null,
        parse: async () => {
          writeFileSync(join(own, INDEX), bytes);
          shards?.[1](own);
          try {
            const checkpoint = await openCheckpoint(own);
            checkpointSpec(checkpoint);
            return checkpoint;
          } finally {
            if (shards) restore();
          }
        },
        judge: (checkpoint: Checkpoint) => {
          const said = jsonOf(bytes)?.value as { weight_map: Record<string, string> } | undefined;
          if (!said) return "accepted what is not JSON with each key once";
          if (shards) return "accepted shards that are not those of the index";
          for (const [name, file] of Object.entries(said.weight_map))
            if (whole.get(name)?.[0] !== file) return `accepted an index that has ${name} in ${file}`;
          return difference(whole, places(checkpoint), "tensors");
        },
      };
    };
  },
};
