// A conversation as files keep it: a row of training data, one line of JSONL.

import { withoutFlags } from "../../data/flags.ts";
import { readRowsFromFile } from "../../data/lines.ts";
import { DataError } from "../../errors.ts";
import { disk } from "../../files/disk.ts";
import { ioError } from "../../task.ts";
import type { Message } from "../../text/template.ts";

/** Adds a row to a file, so that conversations gather into a dataset. @throws IoError */
export async function saveConversation(file: string, messages: readonly Message[]): Promise<void> {
  try {
    await disk.appendFile(file, `${JSON.stringify({ messages })}\n`);
  } catch (error) {
    throw ioError(error, `cannot write ${file}`, { file });
  }
}

/** The last row of a file, or that of a line. @throws DataError no such row · IoError */
export async function loadConversation(file: string, line?: number): Promise<readonly Message[]> {
  let found: readonly Message[] | null = null;
  for await (const read of readRowsFromFile(file)) {
    if (line !== undefined && read.line !== line) continue;
    if (!read.ok) throw read.error;
    if (read.row.shape !== "text") found = read.row.row.messages.map(withoutFlags);
  }
  if (found) return found;
  throw new DataError(`${file}: expected a conversation${line === undefined ? "" : ` in line ${line}`}, found none`, { where: { file } });
}
