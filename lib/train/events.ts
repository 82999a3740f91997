// What a run tells: the same objects go to the iterator, to events.jsonl and to the progress line.

import { existsSync } from "node:fs";
import { appendFile } from "node:fs/promises";
import { writeFileAtomic } from "../files/atomic.ts";
import { readTextFile } from "../files/regular.ts";
import { ioError } from "../task.ts";
import type { Evaluation } from "./evaluate.ts";
import type { StepFigures } from "./update.ts";

interface StepEvent extends Omit<StepFigures, "coverage"> {
  readonly type: "step";
  /** Updates done, from 1. */
  readonly step: number;
  readonly steps: number;
  /** Share of routed slots that met a trained expert; absent when every expert trains. */
  readonly coverage?: number;
  readonly seconds: number;
  readonly tokensPerSecond: number;
  readonly etaSeconds: number;
}
interface StartEvent {
  readonly type: "start";
  readonly step: number;
  readonly steps: number;
  readonly method: string;
  readonly trainedParameters: number;
  readonly totalParameters: number;
  readonly activationBytes: number;
  readonly stateBytes: number;
  readonly examples: number;
  readonly heldOut: number;
  readonly device: string;
  readonly precision: string;
}
export type TrainEvent =
  | StartEvent
  | StepEvent
  | ({ readonly type: "eval"; readonly step: number; readonly best: boolean } & Pick<Evaluation, "loss" | "accuracy" | "supervised">)
  | { readonly type: "checkpoint"; readonly step: number; readonly path: string }
  | { readonly type: "warning"; readonly step: number; readonly message: string }
  | { readonly type: "done"; readonly step: number; readonly reason: "finished" | "interrupted"; readonly seconds: number };

/** events.jsonl of a run directory. */
export class EventLog {
  readonly path: string;
  constructor(path: string) {
    this.path = path;
  }
  async append(event: TrainEvent): Promise<void> {
    await appendFile(this.path, `${JSON.stringify({ ...event, time: new Date().toISOString() })}\n`).catch((error: unknown) => {
      throw ioError(error, `cannot write ${this.path}`, { file: this.path });
    });
  }
  /** Drops what was logged after `step` (a killed run continues from its checkpoint), and half lines. */
  async rewind(step: number): Promise<void> {
    if (!existsSync(this.path)) return;
    const text = await readTextFile(this.path, 2 ** 29);
    const kept = text.split("\n").filter((line) => {
      try {
        return (JSON.parse(line) as { step: number }).step <= step;
      } catch {
        return false;
      }
    });
    await writeFileAtomic(this.path, kept.map((line) => `${line}\n`).join(""));
  }
}

/**
 * A queue that an async iterator drains; an un-iterated run still progresses (old step events are dropped past a cap). An event goes
 * straight to who waits for it: a caller that aborts at an event stops the run before its next step.
 */
export class EventQueue implements AsyncIterable<TrainEvent> {
  private readonly cap = 10_000;
  private items: TrainEvent[] = [];
  private waiting: ((r: IteratorResult<TrainEvent>) => void)[] = [];
  private ended = false;

  push(event: TrainEvent): void {
    const next = this.waiting.shift();
    if (next) return next({ value: event, done: false });
    this.items.push(event);
    if (this.items.length > this.cap) {
      const oldest = this.items.findIndex((e) => e.type === "step");
      this.items.splice(Math.max(0, oldest), 1);
    }
  }
  end(): void {
    this.ended = true;
    for (const w of this.waiting.splice(0)) w({ value: undefined, done: true });
  }
  [Symbol.asyncIterator](): AsyncIterator<TrainEvent> {
    return {
      next: () => {
        const item = this.items.shift();
        if (item) return Promise.resolve({ value: item, done: false });
        if (this.ended) return Promise.resolve({ value: undefined, done: true });
        return new Promise((resolve) => this.waiting.push(resolve));
      },
    };
  }
}
