// Standard input as a file of data, which a command names "-". What went through a pipe is gone: it is read once.

import { addAbortSignal } from "node:stream";
import { ConfigError } from "../errors.ts";
import { ioError, throwIfAborted } from "../task.ts";

export const STANDARD_INPUT = "-";
let taken = false;

/** Its bytes until whoever writes to it closes it. @throws ConfigError it was read before · IoError · AbortError */
export async function* standardInput(signal?: AbortSignal): AsyncGenerator<Buffer> {
  const reading = "reading standard input";
  throwIfAborted(signal, reading);
  if (taken)
    throw new ConfigError(`${STANDARD_INPUT}: standard input can be read once, and was; write the rows to a file and name it twice`, {
      where: { file: STANDARD_INPUT },
    });
  taken = true;
  try {
    const input = signal === undefined ? process.stdin : addAbortSignal(signal, process.stdin);
    for await (const piece of input as AsyncIterable<Buffer | string>) yield typeof piece === "string" ? Buffer.from(piece) : piece;
  } catch (error) {
    throwIfAborted(signal, reading);
    throw ioError(error, "cannot read standard input", { file: STANDARD_INPUT });
  }
}
