// What a run tells: the same objects go to the iterator, to events.jsonl and to the progress line.

import { existsSync } from "node:fs";
import type { FileShare } from "../data/mixture.ts";
import { writeFileAtomic } from "../files/atomic.ts";
import { disk } from "../files/disk.ts";
import type { TrainedRole } from "../methods/method.ts";
import { readTextFile } from "../files/regular.ts";
import { ioError } from "../task.ts";
import type { Evaluation } from "./evaluate.ts";
import type { DriftEvent } from "./drift.ts";
import type { GuardEvent } from "./guard.ts";
import type { Reallocated } from "./reallocation_state.ts";
import type { RouterCost } from "./router_cost.ts";
import type { Sample } from "./samples.ts";
import type { StepFigures } from "./update.ts";

export interface StepEvent extends Omit<StepFigures, "coverage" | "routing"> {
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
export interface StartEvent {
  readonly type: "start";
  readonly step: number;
  readonly steps: number;
  /** Where the run was asked for in epochs: how many, and their rows. */
  readonly epochs?: number;
  readonly epochRows?: number | undefined;
  /** What each of several files gives to an epoch. */
  readonly files?: readonly FileShare[];
  readonly method: string;
  readonly trainedParameters: number;
  /** The same by what they are to the model, and whether they stand beside the base's weights. */
  readonly trained: readonly TrainedRole[];
  readonly totalParameters: number;
  readonly activationBytes: number;
  readonly stateBytes: number;
  /** The host's share: encoded examples, their order, rows under way, what is copied to save. */
  readonly hostBytes: number;
  /** What the straight-through gradient of the routers adds to a step; absent without. */
  readonly straightThrough?: RouterCost;
  /** Ranks of experts that are re-allocated, and what memory is taken for; absent without. */
  readonly reallocation?: { readonly kind: string; readonly rank: number; readonly maxRank: number };
  readonly examples: number;
  readonly heldOut: number;
  readonly device: string;
  readonly precision: string;
}
export type TrainEvent =
  | StartEvent
  | StepEvent
  | Reallocated
  /** A stage begins with this update; of `of` stages, from 1, and what trains in it. */
  | { readonly type: "stage"; readonly step: number; readonly stage: number; readonly of: number; readonly trained: readonly TrainedRole[] }
  | ({ readonly type: "eval"; readonly step: number; readonly best: boolean } & Pick<Evaluation, "loss" | "accuracy" | "supervised">)
  | ({ readonly type: "sample"; readonly step: number } & Sample)
  | GuardEvent
  | DriftEvent
  | { readonly type: "checkpoint"; readonly step: number; readonly path: string }
  | { readonly type: "warning"; readonly step: number; readonly message: string }
  /** A decaying schedule of `from` steps was lengthened to `to`. */
  | { readonly type: "extend"; readonly step: number; readonly from: number; readonly to: number }
  | DoneEvent;

/** Why a run ends before its last update, and in words. */
export interface Stopped {
  readonly by: "earlyStop" | "time" | "guard";
  readonly message: string;
}
export interface DoneEvent {
  readonly type: "done";
  readonly step: number;
  readonly reason: "finished" | "interrupted" | Stopped["by"];
  /** Where it is neither "finished" nor "interrupted". */
  readonly message?: string;
  readonly seconds: number;
}

/** Of a run directory. */
export const EVENTS = "events.jsonl";

export class EventLog {
  readonly path: string;
  constructor(path: string) {
    this.path = path;
  }
  async append(event: TrainEvent): Promise<void> {
    await disk.appendFile(this.path, `${JSON.stringify({ ...event, time: new Date().toISOString() })}\n`).catch((error: unknown) => {
      throw ioError(error, `cannot write ${this.path}`, { file: this.path });
    });
  }
  /** Drops what was logged after `step` (a killed run continues from its checkpoint) save what was `made`, and half lines. */
  async rewind(step: number, made: (event: { type: string; step: number }) => boolean = () => false): Promise<void> {
    if (!existsSync(this.path)) return;
    const text = await readTextFile(this.path, 2 ** 29, "replace");
    const kept = text.split("\n").filter((line) => {
      try {
        const event = JSON.parse(line) as { type: string; step: number };
        return event.step <= step || made(event);
      } catch {
        return false;
      }
    });
    await writeFileAtomic(this.path, kept.map((line) => `${line}\n`).join(""));
  }
}

/**
 * A queue that async iterators drain; an un-iterated run still progresses (old step events are dropped past a cap). An event goes
 * straight to who waits for it: a caller that aborts at an event stops the run before its next step. The error of a failed run comes
 * after the events before it, once to every iterator.
 */
export class EventQueue implements AsyncIterable<TrainEvent> {
  private readonly cap = 10_000;
  private items: TrainEvent[] = [];
  private waiting: (() => void)[] = [];
  private ended: { readonly failure: { readonly error: unknown } | null } | null = null;
  private iterating = 0;
  private thrown = false;
  private readonly onLeft: () => void;

  /** @param onLeft an iterator was left before the end */
  constructor(onLeft: () => void = () => undefined) {
    this.onLeft = onLeft;
  }

  /** The error of a failed run was thrown by an iterator, or there is one that will. */
  get heard(): boolean {
    return this.thrown || this.iterating > 0;
  }

  push(event: TrainEvent): void {
    this.items.push(event);
    if (this.items.length > this.cap) {
      const oldest = this.items.findIndex((e) => e.type === "step");
      this.items.splice(Math.max(0, oldest), 1);
    }
    this.waiting.shift()?.();
  }

  end(failure: { readonly error: unknown } | null = null): void {
    this.ended = { failure };
    for (const look of this.waiting.splice(0)) look();
  }

  [Symbol.asyncIterator](): AsyncIterator<TrainEvent> {
    const done: IteratorResult<TrainEvent> = { value: undefined, done: true };
    let open = true;
    this.iterating++;
    const close = (): void => {
      if (open) this.iterating--;
      open = false;
    };
    const take = (resolve: (result: IteratorResult<TrainEvent>) => void, reject: (error: unknown) => void): void => {
      if (!open) return resolve(done);
      const item = this.items.shift();
      if (item) return resolve({ value: item, done: false });
      if (this.ended === null) return void this.waiting.push(() => take(resolve, reject));
      close();
      if (this.ended.failure === null) return resolve(done);
      this.thrown = true;
      reject(this.ended.failure.error);
    };
    return {
      next: () => new Promise(take),
      return: () => {
        if (open) this.onLeft();
        close();
        return Promise.resolve(done);
      },
    };
  }
}
