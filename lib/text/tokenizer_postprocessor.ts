// Post-processors of tokenizer.json: which special ids go before and after one sequence.

import { ConfigError } from "../errors.ts";

export interface Surround {
  readonly before: readonly number[];
  readonly after: readonly number[];
}

type Config = Readonly<Record<string, unknown>>;

export function buildPostProcessor(config: unknown, where = "post_processor"): Surround {
  if (config === null || config === undefined) return { before: [], after: [] };
  const c = config as Config;
  switch (c["type"]) {
    case "ByteLevel": // changes offsets only
      return { before: [], after: [] };
    case "TemplateProcessing":
      return template(c, where);
    case "BertProcessing":
    case "RobertaProcessing":
      return { before: [pairId(c["cls"], `${where}.cls`)], after: [pairId(c["sep"], `${where}.sep`)] };
    case "Sequence": {
      const steps = (c["processors"] as unknown[]).map((p, i) => buildPostProcessor(p, `${where}.processors[${i}]`));
      // a later template surrounds what the earlier ones made
      return { before: steps.toReversed().flatMap((s) => s.before), after: steps.flatMap((s) => s.after) };
    }
    default:
      throw new ConfigError(
        `tokenizer.json: unsupported post-processor ${JSON.stringify(c["type"])} at ${where}; supported: ByteLevel, TemplateProcessing, BertProcessing, RobertaProcessing, Sequence`,
        { where: { key: where } },
      );
  }
}

function template(c: Config, where: string): Surround {
  const before: number[] = [];
  const after: number[] = [];
  const table = (c["special_tokens"] ?? {}) as Record<string, { ids?: unknown } | undefined>;
  let seen = 0;
  for (const item of c["single"] as { SpecialToken?: { id: string }; Sequence?: { id: string } }[]) {
    if (item.Sequence !== undefined) {
      if (item.Sequence.id !== "A" || ++seen > 1)
        throw new ConfigError(`tokenizer.json: ${where}.single must hold the sequence A once`, { where: { key: where } });
      continue;
    }
    const name = item.SpecialToken?.id ?? "";
    const ids = table[name]?.ids;
    if (!Array.isArray(ids))
      throw new ConfigError(`tokenizer.json: ${where}.special_tokens lacks ${JSON.stringify(name)}`, {
        where: { key: `${where}.special_tokens` },
      });
    (seen === 0 ? before : after).push(...(ids as number[]));
  }
  if (seen === 0) throw new ConfigError(`tokenizer.json: ${where}.single must hold the sequence A once`, { where: { key: where } });
  return { before, after };
}

function pairId(pair: unknown, where: string): number {
  const id = Array.isArray(pair) ? (pair[1] as unknown) : undefined;
  if (typeof id !== "number") throw new ConfigError(`tokenizer.json: ${where} must be [token, id]`, { where: { key: where } });
  return id;
}
