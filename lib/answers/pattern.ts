// References that are patterns: JavaScript's regular expressions with the flag u, where "." is no line feed; 1 or 0.
//
//   regex        the pattern matches somewhere in the answer
//   regex-full   the pattern matches the whole answer, white space at both ends aside
//
// Nothing guards against patterns that take exponential time on some text ((a+)+b): a limit in seconds would make scores depend on the
// machine. Such a pattern stops the evaluation until the process is ended.

import { DataError } from "../errors.ts";
import { bestOf, meanMetric } from "./metric.ts";
import type { Metric } from "./metric.ts";

function compiled(pattern: string, place: string): RegExp {
  try {
    return new RegExp(pattern, "u");
  } catch (cause) {
    const says = `${place}: expected a reference that is a regular expression (JavaScript's, with the flag u): ${(cause as Error).message}`;
    throw new DataError(says, { where: { place }, cause });
  }
}

function patternMetric(name: string, whole: boolean): Metric {
  return meanMetric(name, (row) => {
    const answer = whole ? row.answer.trim() : row.answer;
    return bestOf(row, (reference) => {
      const pattern = compiled(reference, row.place); // by itself first: "a)|(b" is none
      return (whole ? new RegExp(`^(?:${reference})$`, "u") : pattern).test(answer) ? 1 : 0;
    });
  });
}

export const regex = patternMetric("regex", false);
export const regexFull = patternMetric("regex-full", true);
