// The official ESFT template, encoding and packing, with recorded random draws.

import { encodeEsft, packEsft } from "../../../lib/data/esft_format.ts";
import type { Encoded } from "../../../lib/data/masks.ts";
import { PythonRandom } from "../../../lib/data/mt19937.ts";
import { DataError } from "../../../lib/errors.ts";
import type { Message } from "../../../lib/text/template.ts";
import type { Report } from "../compare.ts";
import { attemptAsync, json, Tally } from "./folder.ts";
import type { TextFolder } from "./folder.ts";

interface Packed {
  readonly length: number;
  readonly ratio: number;
  readonly seed: number;
  readonly draws: number[];
  readonly input_ids: number[][];
  readonly labels: number[][];
  readonly lengths?: number[];
  readonly about?: string;
}
interface Example {
  readonly name: string;
  readonly messages: Message[];
  readonly input_ids?: number[];
  readonly labels?: number[];
  readonly error?: string;
}
interface Golden {
  readonly tokenizer: string;
  readonly ids: { readonly pad: number };
  readonly order: readonly string[];
  readonly examples: readonly Example[];
  readonly packed: readonly Packed[];
  readonly synthetic: readonly Packed[];
}

export async function checkPacking(folder: TextFolder): Promise<Report> {
  const tally = new Tally();
  const golden = json<Golden>(folder.root, "esft_packing.json");
  const tokenizer = await folder.tokenizer(golden.tokenizer);
  const examples = new Map<string, Encoded>();
  for (const e of golden.examples) {
    const got = await attemptAsync(() => encodeEsft(e.messages, tokenizer));
    const texts = e.messages.every((m) => typeof m.content === "string");
    if (e.error !== undefined || (got instanceof DataError && !texts)) tally.same(`${e.name} refused`, true, got instanceof DataError);
    else tally.same(e.name, { inputIds: e.input_ids, labels: e.labels }, got instanceof DataError ? got.message : got);
    if (e.input_ids !== undefined && e.labels !== undefined) examples.set(e.name, { inputIds: e.input_ids, labels: e.labels });
  }
  const check = (where: string, p: Packed, buffer: readonly Encoded[], padId: number): void => {
    const random = new PythonRandom(p.seed);
    const draws: number[] = [];
    const draw = (): number => {
      draws.push(random.random());
      return draws.at(-1) as number;
    };
    const rows = [...packEsft(buffer, { length: p.length, ratio: p.ratio, padId, draw })];
    tally.same(`${where} draws`, p.draws, draws);
    tally.same(
      `${where} rows`,
      { ids: p.input_ids, labels: p.labels },
      { ids: rows.map((r) => r.inputIds), labels: rows.map((r) => r.labels) },
    );
  };
  const buffer = golden.order.map((name) => {
    const example = examples.get(name);
    if (!example) throw new Error(`esft_packing.json has no encoded example "${name}"`);
    return example;
  });
  golden.packed.forEach((p, i) => check(`packed ${i}`, p, buffer, golden.ids.pad));
  golden.synthetic.forEach((p) => {
    let next = 1;
    const made = (p.lengths ?? []).map((n) => {
      const inputIds = Array.from({ length: n }, () => next++);
      return { inputIds, labels: inputIds.map((id) => id + 1000) };
    });
    check(`synthetic: ${p.about ?? ""}`, p, made, 0);
  });
  return tally.report();
}
