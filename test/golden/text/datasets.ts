// Dataset rows of every shape: what they become, or code and key of the refusal.

import { readRow } from "../../../lib/data/lines.ts";
import type { Report } from "../compare.ts";
import { json, refusal, Tally } from "./folder.ts";
import type { TextFolder } from "./folder.ts";

interface File {
  readonly text: string;
  readonly rows: readonly unknown[];
  readonly errors: readonly { line: number; code: string; key: string }[];
}
interface Golden {
  readonly good: readonly { readonly line: string; readonly shape: string; readonly row: unknown }[];
  readonly bad: readonly { readonly line: string; readonly code: string; readonly key: string }[];
  readonly file?: File;
}

export function checkDatasets(folder: TextFolder): Report {
  const tally = new Tally();
  const golden = json<Golden>(folder.root, "datasets.json");
  const read = (text: string): { rows: unknown[]; errors: unknown[] } => {
    const rows: unknown[] = [];
    const errors: unknown[] = [];
    const lines = text.replace(/^\ufeff/, "").split("\n");
    for (const item of lines.flatMap((line, i) => readRow(line, i + 1) ?? [])) {
      if (item.ok) rows.push({ line: item.line, shape: item.row.shape, row: item.row.shape === "text" ? item.row.text : item.row.row });
      else errors.push({ line: item.line, ...refusal(item.error) });
    }
    return { rows, errors };
  };
  golden.good.forEach((g, i) => tally.same(`good ${i}`, { rows: [{ line: 1, shape: g.shape, row: g.row }], errors: [] }, read(g.line)));
  golden.bad.forEach((b, i) =>
    tally.same(`bad ${i} ${b.line}`, { rows: [], errors: [{ line: 1, code: b.code, key: b.key }] }, read(b.line)),
  );
  if (golden.file !== undefined) {
    const errors = golden.file.errors.map(({ line, code, key }) => ({ line, code, key }));
    tally.same("file", { rows: golden.file.rows, errors }, read(golden.file.text));
  }
  return tally.report();
}
