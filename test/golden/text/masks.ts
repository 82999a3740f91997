// Whole conversations to token ids and labels, or the refusal.

import { encodeConversation } from "../../../lib/data/masks.ts";
import { DataError } from "../../../lib/errors.ts";
import type { Tokenizer } from "../../../lib/text/tokenizer.ts";
import type { Report } from "../compare.ts";
import { attemptAsync, json, refusal, Tally } from "./folder.ts";
import type { Conversations, TextFolder } from "./folder.ts";

interface Case {
  readonly tokenizer: string;
  readonly template: string;
  readonly conversation: string;
  readonly text?: string;
  readonly input_ids?: number[];
  readonly labels?: number[];
  readonly warnings?: unknown[];
  readonly refuse?: { code: string; key: string };
}

export async function checkMasks(folder: TextFolder): Promise<Report> {
  const tally = new Tally();
  const { clock } = folder;
  const golden = json<{ conversations: Conversations; cases: Case[] }>(folder.root, "masks.json");
  const tokenizers = new Map<string, Tokenizer>();
  for (const c of golden.cases) {
    const where = `${c.tokenizer} ${c.template} ${c.conversation}`;
    const entry = folder.entry(c.template);
    const tokenizer = tokenizers.get(c.tokenizer) ?? (await folder.tokenizer(c.tokenizer));
    tokenizers.set(c.tokenizer, tokenizer);
    const conversation = golden.conversations[c.conversation];
    if (!conversation) throw new Error(`masks.json has no conversation "${c.conversation}"`);
    const { messages, tools } = conversation;
    const got = await attemptAsync(() =>
      encodeConversation({
        tokenizer,
        template: folder.template(entry.file),
        messages,
        tools: tools ?? null,
        stops: entry.stops,
        render: { bosToken: entry.bos, eosToken: entry.eos, now: clock },
      }),
    );
    const { code, key } = c.refuse ?? {};
    const want = c.refuse === undefined ? { text: c.text, inputIds: c.input_ids, labels: c.labels, warnings: c.warnings } : { code, key };
    tally.same(
      where,
      want,
      got instanceof DataError ? refusal(got) : { text: got.text, inputIds: got.inputIds, labels: got.labels, warnings: got.warnings },
    );
  }
  return tally.report();
}
