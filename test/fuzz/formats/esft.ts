// The official ESFT files: expert_cfg.json beside tensors under the base's names. Whatever is accepted trains the experts of the file
// and has every tensor's bytes where the header says.

import { copyFileSync, cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Adapter } from "../../../lib/adapter/adapter.ts";
import { openAdapter, saveEsftAdapter } from "../../../lib/adapter/esft_layout.ts";
import { openSafetensors } from "../../../lib/files/safetensors.ts";
import type { Case, Format } from "../case.ts";
import { difference, mutateBytes, mutateJson } from "../case.ts";
import { jsonOf, toTree } from "../tree.ts";
import { adapterBase, adapters } from "./adapter_seeds.ts";
import { readJson } from "./seeds.ts";

type Official = {
  readonly experts: Readonly<Record<string, readonly number[]>>;
  readonly shared_experts: boolean;
  readonly non_expert_modules: boolean;
};
const CONFIG = "expert_cfg.json";
const DATA = "model.safetensors";

export const esft: Format = {
  name: "esft",
  async open(dir) {
    const base = await adapterBase(join(dir, "base"));
    const made = (await adapters(base)).slice(0, 2);
    const seeds = await Promise.all(
      made.map(async (a, i) => {
        const [clean, own] = [join(dir, `${i}-clean`), join(dir, `${i}`)];
        await saveEsftAdapter(a, clean);
        cpSync(clean, own, { recursive: true });
        return { clean, own, tree: toTree(readJson(join(clean, CONFIG))) };
      }),
    );
    return (dice): Case => {
      const seed = dice.top.pick(seeds);
      const name = dice.top.once(3) ? DATA : CONFIG;
      const clean = readFileSync(join(seed.clean, name));
      const { bytes, steps, same } = name === DATA ? mutateBytes(clean, dice) : mutateJson(seed.tree, dice);
      const path = join(seed.own, name);
      return {
        steps: [name, ...steps],
        same,
        files: { [name]: bytes },
        file: "adapter",
        parse: async () => {
          writeFileSync(path, bytes);
          try {
            const read = await openAdapter(seed.own, { base });
            const file = await openSafetensors(join(seed.own, DATA));
            const values = await Promise.all(
              [...read.tensors.keys()].map(async (key) => [await read.read(key), await file.read(key)] as const),
            );
            return { read, values };
          } finally {
            copyFileSync(join(seed.clean, name), path);
          }
        },
        judge: ({ read, values }: { read: Adapter; values: readonly (readonly [Uint8Array, Uint8Array])[] }) => {
          const said = jsonOf(name === CONFIG ? bytes : readFileSync(join(seed.clean, CONFIG)))?.value as Official | undefined;
          if (!said) return "accepted what is not JSON with each key once";
          if (values.some(([a, b]) => Buffer.compare(a, b) !== 0)) return "read other bytes than the header says";
          const layers = Object.entries(said.experts).map(([l, ids]) => [Number(l), ids] as const).sort(([a], [b]) => a - b); // prettier-ignore
          const { experts } = read;
          const [shared, rest] = [said.shared_experts, said.non_expert_modules];
          const found = {
            layers: [...experts!.layers].map(([l, e]) => [l, e.ranked]),
            shared: experts!.sharedExperts,
            rest: experts!.nonExpertModules,
          };
          const roles = new Set([...read.tensors.values()].map((t) => t.role));
          if (!shared && roles.has("shared")) return "accepted shared experts that the file does not train";
          for (const [layer, ids] of layers)
            for (const id of ids) {
              const own = [...read.tensors.values()].filter((t) => t.layer === layer && t.expert === id);
              if (own.length !== 3) return `layer ${layer}, expert ${id}: ${own.length} tensors`;
            }
          return difference({ layers, shared, rest }, found, "experts");
        },
      };
    };
  },
};
