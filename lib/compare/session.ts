// What the steps of a comparison share: the plan, the model that all of it runs on, the hashes of files, and who is told how it goes.

import { join } from "node:path";
import type { Examples } from "../data/examples.ts";
import type { BaseIdentity } from "../files/hash.ts";
import type { MoeModel } from "../moe_model.ts";
import type { DataOptions } from "../options.ts";
import type { PlanFiles } from "./files.ts";
import { Outlook } from "./outlook.ts";
import type { Kind } from "./outlook.ts";
import type { Plan } from "./plan.ts";
import type { Facts } from "./record.ts";

export interface CompareProgress {
  /** The cell that is computed, or "base", or "profile TASK". */
  readonly id: string;
  /** What is done there: "train", or which rows are evaluated. */
  readonly work: string;
  /** Of updates, rows or tokens. */
  readonly done: number;
  readonly total: number;
  /** Cells of the whole plan whose runs are done, reused ones too. */
  readonly cellsDone: number;
  readonly cells: number;
  /** Of the whole plan; null while nothing can be said. */
  readonly etaSeconds: number | null;
}

export interface CompareTask {
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: CompareProgress) => void) | undefined;
  /** What is worth a line: cells that are redone, and why; warnings of runs. */
  readonly onNote?: ((text: string) => void) | undefined;
}

export class Session {
  readonly outlook = new Outlook();
  readonly plan: Plan;
  readonly model: MoeModel;
  readonly files: PlanFiles;
  readonly identity: BaseIdentity;
  readonly out: string;
  /** The caller's; it fires too when a listener has failed. */
  readonly signal: AbortSignal;
  cellsDone = 0;
  cells = 0;
  private readonly listeners: Pick<CompareTask, "onProgress" | "onNote">;
  private readonly stop = new AbortController();
  private readonly noted = new Set<string>();
  private failure: { readonly error: unknown } | null = null;
  private readonly encoded = new Map<string, Examples>();

  constructor(parts: Pick<Session, "plan" | "model" | "files" | "identity" | "out">, { signal, onProgress, onNote }: CompareTask) {
    this.plan = parts.plan;
    this.model = parts.model;
    this.files = parts.files;
    this.identity = parts.identity;
    this.out = parts.out;
    this.signal = signal ? AbortSignal.any([signal, this.stop.signal]) : this.stop.signal;
    this.listeners = { onProgress, onNote };
  }

  at(...names: string[]): string {
    return join(this.out, ...names);
  }

  progress(id: string, work: string, done: number, total: number): void {
    const { cellsDone, cells, outlook } = this;
    this.tell(() => this.listeners.onProgress?.({ id, work, done, total, cellsDone, cells, etaSeconds: outlook.seconds }));
  }

  note(text: string): void {
    this.tell(() => this.listeners.onNote?.(text));
  }

  /** Of what all cells of a method on a task have in common: told once. */
  noteOnce(task: string, method: string, text: string): void {
    const line = `${task}, ${method}: ${text}`;
    if (!this.noted.has(line)) this.note(line);
    this.noted.add(line);
  }

  /** What a listener throws, or rejects with, stops the comparison as its signal does: what was reached is kept. */
  private tell(listener: () => unknown): void {
    const fail = (error: unknown): void => {
      this.failure ??= { error };
      this.stop.abort(error);
    };
    if (this.failure !== null) return;
    try {
      void Promise.resolve(listener()).catch(fail);
    } catch (error) {
      fail(error);
    }
  }

  /** Does the work. @throws what a listener threw in place of what came of it */
  async listening<T>(work: () => Promise<T>): Promise<T> {
    try {
      const value = await work();
      if (this.failure === null) return value;
    } catch (error) {
      if (this.failure === null) throw error;
    }
    throw (this.failure as { readonly error: unknown }).error;
  }

  /** Does the work, and counts what it took. @returns its seconds too */
  async timed<T>(kind: Kind, work: () => Promise<T>): Promise<{ readonly value: T; readonly seconds: number }> {
    const began = performance.now();
    const value = await work();
    const seconds = (performance.now() - began) / 1000;
    this.outlook.spent(kind, 1, seconds);
    return { value, seconds };
  }

  /** What every figure rests on: the model's weights and files, and how it computes: each instruction set rounds its sums in its own order. */
  get modelFacts(): Facts {
    const { transformer, device, params } = this.model;
    const { contents, fingerprint } = this.identity;
    return {
      model: contents ?? fingerprint,
      modelFiles: this.files.ofModel,
      backend: device.info.backend,
      instructionSet: device.info.instructionSet,
      precision: transformer.precision,
      ...(params.roundedBase ? { dequantise: "bf16" } : {}),
    };
  }

  /** Rows that are evaluated again and again are encoded once. */
  async examples(file: string, data: DataOptions): Promise<Examples> {
    const key = JSON.stringify([file, data]);
    const known = this.encoded.get(key);
    if (known) return known;
    const { examples } = await this.model.encode(file, data, { signal: this.signal });
    this.encoded.set(key, examples);
    return examples;
  }
}
