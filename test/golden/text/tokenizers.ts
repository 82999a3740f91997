// One tokenizer against its cases: encoding, with and without special tokens, decoding, and what it must refuse.

import { DataError } from "../../../lib/errors.ts";
import type { Tokenizer } from "../../../lib/text/tokenizer.ts";
import type { Report } from "../compare.ts";
import { attemptAsync, json, Tally } from "./folder.ts";

interface Case {
  readonly id?: string;
  readonly bytes?: string;
  readonly partial?: string;
  readonly text: string;
  readonly ids: number[];
  readonly special?: number[];
  readonly decoded: string;
  readonly skip: string;
}

/** @param dir holds cases.json */
export async function checkTokenizer(dir: string, open: () => Promise<Tokenizer>): Promise<Report> {
  const tally = new Tally();
  const golden = json<{ cases: Case[]; decode?: Case[]; unencodable?: Case[] }>(dir, "cases.json");
  const tokenizer = await open();
  for (const c of golden.cases) {
    tally.same(`${c.id} ids`, c.ids, await tokenizer.encode(c.text));
    if (c.special !== undefined) tally.same(`${c.id} special`, c.special, await tokenizer.encode(c.text, { addSpecialTokens: true }));
  }
  for (const c of [...golden.cases, ...(golden.decode ?? [])]) {
    const id = c.id ?? (c.bytes === undefined ? `partial ${c.partial}` : `bytes ${c.bytes}`);
    tally.same(`${id} decoded`, c.decoded, tokenizer.decode(c.ids));
    tally.same(`${id} skip`, c.skip, tokenizer.decode(c.ids, { skipSpecialTokens: true }));
  }
  for (const c of golden.unencodable ?? []) {
    const got = await attemptAsync(() => tokenizer.encode(c.text));
    tally.same(`${c.id} refused`, "surrogate", got instanceof DataError ? got.where["rule"] : got);
  }
  return tally.report();
}
