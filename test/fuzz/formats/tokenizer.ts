// tokenizer.json and the files beside it: whatever is accepted has the tokens, ids and templates that the files name, and every id that
// a text becomes lies in the vocabulary.

import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Tokenizer } from "../../../lib/text/tokenizer.ts";
import type { Case, Format } from "../case.ts";
import { difference, mutateJson } from "../case.ts";
import { jsonOf, toTree } from "../tree.ts";
import { tokenizers } from "./tokenizer_seeds.ts";

type Json = Readonly<Record<string, unknown>>;
const NAMES = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"] as const;
const TEXTS = ["hello  he low\n", "", " <s>[X] lo</s>é👍", "llllllllllllllll 1234567"];

interface Read {
  readonly tokenizer: Tokenizer;
  readonly ids: readonly (readonly number[])[];
  readonly texts: readonly string[];
}

async function read(dir: string): Promise<Read> {
  const tokenizer = await Tokenizer.load(dir);
  const ids = await Promise.all(TEXTS.flatMap((text) => [tokenizer.encode(text), tokenizer.encodeRaw(text)]));
  return { tokenizer, ids, texts: ids.map((list) => tokenizer.decode(list)) };
}

export const tokenizer: Format = {
  name: "tokenizer",
  async open(dir) {
    const seeds = await Promise.all(
      tokenizers.map(async (files, i) => {
        const clean = join(dir, `${i}-clean`);
        const own = join(dir, `${i}`);
        for (const folder of [clean, own]) {
          mkdirSync(folder, { recursive: true });
          for (const name of NAMES) writeFileSync(join(folder, name), JSON.stringify(files[name] ?? {}));
        }
        const { ids, texts } = await read(clean);
        return { own, clean, trees: NAMES.map((name) => toTree(files[name] ?? {})), ids, texts };
      }),
    );
    return (dice): Case => {
      const seed = dice.top.pick(seeds);
      const which = dice.top.pick([0, 0, 0, 0, 1, 1, 2, 3]);
      const name = NAMES[which]!;
      const { bytes, steps, same } = mutateJson(seed.trees[which]!, dice);
      return {
        steps,
        same,
        files: { [name]: bytes },
        file: seed.own,
        parse: async () => {
          writeFileSync(join(seed.own, name), bytes);
          try {
            return await read(seed.own);
          } finally {
            copyFileSync(join(seed.clean, name), join(seed.own, name));
          }
        },
        judge: (found: Read) => {
          const files = NAMES.map((n) => jsonOf(n === name ? bytes : readFileSync(join(seed.clean, n)))?.value as Json | undefined);
          if (files.includes(undefined)) return "accepted what is not JSON with each key once";
          if (same) return difference(seed.ids, found.ids, "ids") ?? difference(seed.texts, found.texts, "decoded");
          return judge(files as Json[], found);
        },
      };
    };
  },
};

function judge([main = {}, config = {}, special = {}, generation = {}]: readonly Json[], { tokenizer: t, ids }: Read): string | null {
  const { vocab } = main["model"] as { vocab: Readonly<Record<string, number>> | [string, number][] };
  const added = (main["added_tokens"] ?? []) as { id: number; content: string }[];
  const byToken = new Map<string, number>(Array.isArray(vocab) ? vocab.map(([token], i) => [token, i]) : Object.entries(vocab));
  for (const { id, content } of added) byToken.set(content, id);
  const size = Math.max(...byToken.values(), ...(Array.isArray(vocab) ? [vocab.length - 1] : []), -1) + 1;
  const named = (key: string): string | null => {
    const value = (key in config ? config[key] : special[key]) ?? null;
    return typeof value === "object" && value !== null ? ((value as Json)["content"] as string) : (value as string | null);
  };
  const eos = generation["eos_token_id"] ?? [];
  const stops = Array.isArray(eos) ? eos : [eos];
  if (!stops.every((id) => Number.isInteger(id))) return `accepted eos_token_id ${JSON.stringify(eos)}`;
  const chat = config["chat_template"] ?? [];
  const templates = (typeof chat === "string" ? [{ name: "default", template: chat }] : chat) as { name: string; template: string }[];
  if (!Array.isArray(templates) || !templates.every((c) => typeof c?.name === "string" && typeof c.template === "string"))
    return `accepted chat_template ${JSON.stringify(chat)}`;
  const bos = config["add_bos_token"] ?? false;
  if (typeof bos !== "boolean") return `accepted add_bos_token ${JSON.stringify(bos)}`;
  for (const [i, list] of ids.entries()) {
    const odd = list.find((id) => !(Number.isInteger(id) && id >= 0 && id < size));
    if (odd !== undefined) return `a text became id ${odd} of a vocabulary of ${size}`;
    if (i % 2 === 1 && bos && t.bosId !== null && list[0] !== t.bosId) return "add_bos_token is true, and no BOS was added";
  }
  const idOf = (token: string | null): number | null => (token === null ? null : (byToken.get(token) ?? null));
  return difference(
    {
      size, bos: named("bos_token"), eos: named("eos_token"), pad: named("pad_token"), bosId: idOf(named("bos_token")), eosId: idOf(named("eos_token")),
      templates: new Map(templates.map((c) => [c.name, c.template])),
      stops: [...new Set([named("eos_token"), ...stops.map((id) => t.idToToken(id as number))])].filter((x) => x !== null),
    },
    { size: t.vocabSize, bos: t.bosToken, eos: t.eosToken, pad: t.padToken, bosId: t.bosId, eosId: t.eosId, templates: t.chatTemplates, stops: t.stopTokens },
    "tokenizer",
  ); // prettier-ignore
}
