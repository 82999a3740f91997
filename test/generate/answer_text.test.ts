// Ids → text up to the first stop string, with the tokenizer of the embedded model.

import { join } from "node:path";
import { expect, test } from "vitest";
import { AnswerText } from "../../lib/generate/answer_text.ts";
import { StopStrings } from "../../lib/generate/stops.ts";
import { loadTokenizer } from "../../lib/text/tokenizer.ts";

const folder = join(import.meta.dirname, "../../examples/embedded");

test("stop strings across tokens, and in what was held back as bytes", async () => {
  const t = await loadTokenizer(folder);
  const text = "One line.\n\nAnother 🙂 line";
  const ids = await t.encode(text);
  const answer = (stop: string[], n = ids.length): [string, string | null] => {
    const a = new AnswerText(t, new StopStrings(stop));
    let out = "";
    for (const id of ids.slice(0, n)) out += a.push(id);
    out += a.end();
    return [out, a.stopped];
  };
  expect(answer([])).toEqual([text, null]);
  expect(answer(["\n\nAno"])).toEqual(["One line.", "\n\nAno"]);
  expect(answer(["🙂 l", "line, "])).toEqual(["One line.\n\nAnother ", "🙂 l"]);
  expect(answer(["line!"])).toEqual([text, null]);
  const open = ids.findIndex((_, n) => t.decode(ids.slice(0, n)).endsWith("\ufffd"));
  expect(open).toBeGreaterThan(0);
  expect(answer(["\ufffd"], open)).toEqual(["One line.\n\nAnother ", "\ufffd"]);
  expect(new AnswerText(t).stopped).toBe(null);
});
