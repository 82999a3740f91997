// Where a comparison is, as one line: cells, the one at work, and how long all of it takes.

import type { CompareProgress } from "../compare/session.ts";
import { duration } from "../format.ts";

export function progressOf({ id, work, done, total, cellsDone, cells, etaSeconds }: CompareProgress): string {
  const eta = etaSeconds === null ? [] : [`ETA ${duration(etaSeconds)}`];
  return [`${cellsDone}/${cells} cells`, id, `${work} ${done}/${total}`, ...eta].join("  ");
}
