// Adapter folders, LoRA's included: whatever is accepted has the facts of the manifest, the tensors that were saved, and every tensor
// at its place in the base.

import { copyFileSync, cpSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Adapter } from "../../../lib/adapter/adapter.ts";
import { requirePlaces } from "../../../lib/adapter/tensors.ts";
import { sha256 } from "../../../lib/files/hash.ts";
import { sliceKey } from "../../../lib/files/slice.ts";
import { attachmentsOf } from "../../../lib/methods/attachments.ts";
import { checkpointSpec } from "../../../lib/model/families/index.ts";
import { parameterShapes } from "../../../lib/model/spec.ts";
import type { ModelSpec } from "../../../lib/model/spec.ts";
import type { Case, Format, Mutated } from "../case.ts";
import { difference, mutateBytes, mutateJson } from "../case.ts";
import { jsonOf, toTree } from "../tree.ts";
import { adapterBase, adapters } from "./adapter_seeds.ts";
import { readJson } from "./seeds.ts";

type Json = Readonly<Record<string, unknown>>;
const MANIFEST = "adapter.json";

export const adapter: Format = {
  name: "adapter",
  async open(dir) {
    const base = await adapterBase(join(dir, "base"));
    const spec = checkpointSpec(base);
    const seeds = await Promise.all(
      (await adapters(base)).map(async (made, i) => {
        const clean = join(dir, `${i}-clean`);
        const own = join(dir, `${i}`);
        await made.save(clean, i === 1 ? { maxShardBytes: 400 } : {});
        cpSync(clean, own, { recursive: true });
        const tree = toTree(readJson(join(clean, MANIFEST)));
        return { clean, own, tree, files: readdirSync(clean), contents: await contentsOf(made), spec };
      }),
    );
    return (dice): Case => {
      const seed = dice.top.pick(seeds);
      const data = seed.files.filter((f) => f.endsWith(".safetensors"));
      const [name, mutated] = pick();
      function pick(): [string, Mutated] {
        if (dice.top.once(5)) {
          const file = dice.top.pick(data);
          return [file, mutateBytes(readFileSync(join(seed.clean, file)), dice)];
        }
        if (dice.top.once(20)) return [dice.top.pick(data), { bytes: new Uint8Array(), steps: ["removes it"], same: false }];
        return [MANIFEST, mutateJson(seed.tree, dice)];
      }
      const { bytes, steps, same } = mutated;
      const path = join(seed.own, name);
      return {
        steps: [name, ...steps],
        same,
        files: { [name]: bytes },
        file: "adapter",
        parse: async () => {
          if (steps[0] === "removes it") rmSync(path);
          else writeFileSync(path, bytes);
          try {
            const read = await Adapter.load(seed.own, { base });
            requirePlaces(spec, read.tensors);
            attachmentsOf(spec, read.method, read.attached);
            return { read, contents: await contentsOf(read) };
          } finally {
            copyFileSync(join(seed.clean, name), path);
          }
        },
        judge: ({ read, contents }: { read: Adapter; contents: ReadonlyMap<string, string> }) => {
          const said = jsonOf(name === MANIFEST ? bytes : readFileSync(join(seed.clean, MANIFEST)))?.value as Json | undefined;
          if (!said) return "accepted what is not JSON with each key once";
          return difference(seed.contents, contents, "tensors") ?? factsFault(said, read) ?? placesFault(spec, read);
        },
      };
    };
  },
};

async function contentsOf(a: Adapter): Promise<Map<string, string>> {
  const keys = [...a.tensors.keys(), ...a.attached.keys()];
  return new Map(await Promise.all(keys.map(async (key) => [key, sha256(await a.read(key))] as const)));
}

/** What the manifest says of the adapter as a whole. */
function factsFault(said: Json, a: Adapter): string | null {
  const { method, base, profile, training, frozenDigest, createdBy } = a;
  const facts = { method, base, profile, training, frozenDigest, createdBy };
  const d = difference(Object.fromEntries(Object.keys(facts).map((key) => [key, said[key]])), facts, "adapter");
  if (d !== null) return d;
  const { type, ...options } = method as Json;
  const beside = ["router", "routerRank", "routerAlpha", "condensers", "condenserRate"];
  const known = type === "lora" ? ["rank", "alpha", "targets"] : type === "esft" ? beside : [];
  const odd = a.attached.size > 0 ? Object.keys(options).find((key) => !known.includes(key)) : undefined;
  if (odd !== undefined) return `accepted the option ${odd} of method ${String(type)}`;
  if (type === "esft" && a.experts === null) return "accepted ESFT without experts";
  const sets = said["experts"] as { layers: { layer: number; experts: number[] }[] } | null;
  const wanted = sets && new Map(sets.layers.map((l) => [l.layer, l.experts] as const).sort(([x], [y]) => x - y));
  return difference(wanted, a.experts && new Map([...a.experts.layers].map(([l, e]) => [l, e.ranked])), "experts");
}

/** Role, layer, expert and part of each tensor, against the model. */
function placesFault(spec: ModelSpec, a: Adapter): string | null {
  const places = new Map(parameterShapes(spec).map((p) => [sliceKey(p.ref), p]));
  for (const [key, t] of a.tensors) {
    const { role, layer, expert, part, shape } = places.get(key)!;
    const d = difference(
      { role, layer, expert, part, shape },
      { role: t.role, layer: t.layer, expert: t.expert, part: t.part, shape: t.shape },
      key,
    );
    if (d !== null) return d;
  }
  for (const [key, t] of a.attached) {
    const bias = /^condenser\.layers\.(\d+)\.bias$/.exec(key)?.[1];
    if (bias !== undefined) {
      const d = difference({ layer: Number(bias), target: undefined }, { layer: t.layer, target: t.target }, key);
      if (d !== null) return d;
      continue;
    }
    const target = key.replace(/^lora\.(.*)\.[AB]$/, "$1");
    const d = difference({ layer: places.get(target)!.layer, target }, { layer: t.layer, target: t.target && sliceKey(t.target) }, key);
    if (d !== null) return d;
  }
  return null;
}
