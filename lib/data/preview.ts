// A row as the model will see it: its tokens as text, and which of them are trained.

import { shapeArgument } from "../arguments.ts";
import { IGNORE, type Encoded } from "./masks.ts";
import type { Origin } from "./place.ts";
import type { Shape } from "./rows.ts";
import type { Tokenizer } from "../text/tokenizer.ts";

export interface PreviewToken {
  readonly id: number;
  /** Empty where the token is only the beginning of a character: its text is that of the token that completes it. */
  readonly text: string;
  readonly supervised: boolean;
}
export interface Preview {
  readonly line: number;
  /** What `line` counts (default: lines). */
  readonly unit?: Origin["unit"];
  readonly shape: Shape;
  readonly tokens: readonly PreviewToken[];
  readonly warnings: readonly string[];
}

/** Tokens with their text; all texts together are the decoded row. */
export function previewTokens({ inputIds, labels }: Encoded, tokenizer: Tokenizer): PreviewToken[] {
  const stream = tokenizer.decodeStream();
  const texts = Array.from(inputIds, (id) => stream.push(id));
  const rest = stream.end();
  if (texts.length > 0) texts.push(`${texts.pop()}${rest}`);
  return texts.map((text, t) => ({ id: inputIds[t]!, text, supervised: labels[t] !== IGNORE }));
}

const SHOWN_TOKENS = 512;

/**
 * A preview as text: one line per run of tokens, marked with what is trained (`+`) and what is not (`·`). Of a row of more than
 * `maxTokens` (default 512) the first and the last are shown, and how many are not.
 */
export function formatPreview(preview: Preview, { maxTokens = SHOWN_TOKENS }: { readonly maxTokens?: number } = {}): string {
  const {
    tokens,
    line,
    unit = "line",
    shape,
    warnings,
  } = shapeArgument(preview, ["tokens", "line", "shape", "warnings"], "a preview of Dataset.preview", "formatPreview: preview");
  const trained = (of: readonly PreviewToken[]): number => of.filter((t) => t.supervised).length;
  const out = [`${unit} ${line} (${shape}): ${tokens.length} tokens, ${trained(tokens)} trained`];
  if (tokens.length <= maxTokens) out.push(...runs(tokens));
  else {
    const [from, to] = [Math.ceil(maxTokens / 2), tokens.length - Math.floor(maxTokens / 2)];
    const middle = tokens.slice(from, to);
    out.push(
      ...runs(tokens.slice(0, from)),
      `  … ${middle.length} tokens are not shown, ${trained(middle)} of them trained`,
      ...runs(tokens.slice(to)),
    );
  }
  return [...out, ...warnings.map((warning) => `  warning: ${warning}`)].join("\n");
}

function runs(tokens: readonly PreviewToken[]): string[] {
  const lines: string[] = [];
  for (let from = 0, to = 0; from < tokens.length; from = to) {
    const { supervised } = tokens[from]!;
    while (to < tokens.length && tokens[to]!.supervised === supervised) to++;
    const run = tokens.slice(from, to);
    const pieces = run.filter((t) => t.text !== "").map((t) => visible(t.text));
    if (run.at(-1)!.text === "") pieces.push("…"); // the character goes on in the next line
    lines.push(`  ${supervised ? "+" : "·"} ${pieces.join("|")}`);
  }
  return lines;
}

/** Text without what a terminal would act on (controls, changes of direction) or show as damage. */
function visible(text: string): string {
  const quoted = JSON.stringify(text).slice(1, -1);
  return quoted.replace(/[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff\ufffd]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
}
