// Rows of a program that come one after the other: an iterable or async iterable (a generator, a cursor of a database, a stream of
// objects), or a function that makes one. None is kept, and the next is asked for when the one before was used.

import { readSafely } from "../arguments.ts";
import { AbortError, ConfigError, DataError, EsftError } from "../errors.ts";
import { shown } from "../options.ts";
import { throwIfAborted } from "../task.ts";
import type { ReadValue } from "./lines.ts";

export type GivenRows = AsyncIterable<unknown> | Iterable<unknown> | (() => AsyncIterable<unknown> | Iterable<unknown>);
type Steps = Pick<AsyncIterator<unknown> | Iterator<unknown>, "next" | "return">;

const EXPECTED = "an iterable or async iterable of rows, or a function that makes one";
const READING = "reading the rows";

const refuse = (key: string, value: unknown): never => {
  const fix = typeof value === "string" ? "; a file is read by Dataset.fromFile" : "";
  throw new ConfigError(`${key}: expected ${EXPECTED}, found ${shown(value)}${fix}`, { where: { key } });
};

const isIterable = (value: unknown): boolean =>
  typeof value === "object" && value !== null && (Symbol.asyncIterator in value || Symbol.iterator in value);

/**
 * The reader of given rows, each with its number from 1. What a function makes, and lists, can be read as often as is asked; anything
 * else once. @throws ConfigError not iterable, or read twice · DataError what the iterable throws, with the number of the row
 */
export function givenRows(rows: GivenRows, key: string): (signal?: AbortSignal) => AsyncGenerator<ReadValue> {
  if (typeof rows !== "function" && !readSafely(key, () => isIterable(rows))) refuse(key, rows);
  let taken = false;
  return async function* read(signal) {
    if (taken)
      throw new ConfigError(`${key}: these rows can be read once, and were; give a list, or a function that makes the iterable anew`, {
        where: { key },
      });
    const { steps, again } = begin(rows, key);
    taken = !again;
    let [line, open] = [1, true];
    try {
      for (; ; line++) {
        const { done, value } = await next(steps, line, signal);
        if (done === true) {
          open = false;
          return;
        }
        yield { ok: true, line, value };
      }
    } catch (error) {
      open = false; // it threw, or is still waiting for its next row
      throw error;
    } finally {
      if (open) await Promise.resolve(steps.return?.()).catch(() => undefined);
    }
  };
}

/** @throws ConfigError what the function made is not iterable, or throws */
function begin(rows: GivenRows, key: string): { readonly steps: Steps; readonly again: boolean } {
  return readSafely(key, () => {
    const made = typeof rows === "function" ? rows() : rows;
    if (!isIterable(made)) refuse(key, made);
    const isAsync = Symbol.asyncIterator in made;
    const steps = isAsync ? made[Symbol.asyncIterator]() : made[Symbol.iterator]();
    // A generator is its own iterator; of a list each reading begins anew. Async ones (streams, cursors) may be either.
    return { steps, again: typeof rows === "function" || (!isAsync && (steps as unknown) !== made) };
  });
}

/** The next row; the signal ends the wait for it. */
async function next(steps: Steps, line: number, signal: AbortSignal | undefined): Promise<IteratorResult<unknown>> {
  throwIfAborted(signal, READING);
  let stop: (() => void) | undefined;
  const aborted = new Promise<never>((_, reject) => {
    stop = () => reject(new AbortError(`${READING} was aborted`, { cause: signal?.reason }));
    signal?.addEventListener("abort", stop, { once: true });
  });
  try {
    const step = await Promise.race([steps.next(), aborted]);
    if (typeof step !== "object" || step === null) throw new TypeError(`its next() gave ${shown(step)}`);
    return { done: step.done === true, value: step.done === true ? undefined : await Promise.race([step.value, aborted]) };
  } catch (cause) {
    if (cause instanceof EsftError) throw cause;
    const says = cause instanceof Error ? cause.message : String(cause);
    throw new DataError(`row ${line}: expected a row of what was given, found that it throws: ${says}`, {
      where: { rule: "source", line },
      cause,
    });
  } finally {
    signal?.removeEventListener("abort", stop!);
  }
}
