// Models and adapters as a command line names them: folders, or models of the hub, which are fetched with their progress told.

import { bytes, duration } from "../format.ts";
import { adapterFolder, modelFolder, pullModel } from "../hub/folder.ts";
import type { PulledModel } from "../hub/folder.ts";
import type { PullTask } from "../hub/pull.ts";
import type { Terminal } from "./terminal.ts";

/** Help texts of what names a model, and an adapter. */
export const MODEL = "checkpoint directory, or org/name[@revision] on the Hugging Face Hub";
export const ADAPTER_FORMS = "ours, the official layout or PEFT; a directory, or org/name on the hub";

/** The folder of a checkpoint, or of its files without the weights. */
export const modelDir = (word: string, terminal: Terminal, need: "model" | "tokenizer" = "model"): Promise<string> =>
  told(terminal, (task) => modelFolder(word, task, need));

export const adapterDir = (word: string, terminal: Terminal): Promise<string> => told(terminal, (task) => adapterFolder(word, task));

export const pulled = (word: string, terminal: Terminal): Promise<PulledModel> => told(terminal, (task) => pullModel(word, task));

async function told<T>(terminal: Terminal, work: (task: PullTask) => Promise<T>): Promise<T> {
  const rate = new Rate();
  let left = 0;
  try {
    const result = await work({
      signal: terminal.signal,
      onNote: (text) => terminal.note(text),
      onProgress: ({ done, total }) => {
        left = total - done;
        terminal.progress(downloadLine(done, total, rate.of(done)));
      },
    });
    terminal.clear();
    return result;
  } catch (error) {
    if (terminal.signal.aborted && left > 0) terminal.note(`${bytes(left)} are left to fetch; the same command goes on from there`);
    throw error;
  }
}

/** "download 1.20 GB of 13.8 GB (8 %)  45.1 MB/s  ETA 4m39s" */
export function downloadLine(done: number, total: number, perSecond: number | null): string {
  const where = `download ${bytes(done)} of ${bytes(total)} (${Math.floor((100 * done) / Math.max(1, total))} %)`;
  if (perSecond === null) return where;
  return `${where}  ${bytes(Math.round(perSecond))}/s  ETA ${duration(perSecond === 0 ? Infinity : (total - done) / perSecond)}`;
}

const WINDOW_MS = 10_000;

/** Bytes a second over the last ten; null while nothing can be said. */
export class Rate {
  private readonly now: () => number;
  private seen: { readonly at: number; readonly done: number }[] = [];

  constructor(now: () => number = () => performance.now()) {
    this.now = now;
  }

  of(done: number): number | null {
    const at = this.now();
    const last = this.seen.at(-1);
    if (last !== undefined && done < last.done) this.seen = []; // a file begins anew
    if (last === undefined || at - last.at >= 100 || this.seen.length === 0) this.seen.push({ at, done });
    while (this.seen.length > 2 && at - this.seen[0]!.at > WINDOW_MS) this.seen.shift();
    const first = this.seen[0]!;
    return at - first.at < 500 ? null : (1000 * (done - first.done)) / (at - first.at);
  }
}
