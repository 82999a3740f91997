// What the survey knows at a moment: the whole of survey.json. A status follows from what has happened and from nothing else, so that
// a stage that did not run is never told as one that went well.

export type ItemStatus =
  | "waiting"
  | "running"
  | "ok"
  | "failed"
  /** The machine lacks what it needs. */
  | "absent"
  /** No sign of life. */
  | "hung"
  /** Its process ended under it. */
  | "died"
  /** The stage's time was over. */
  | "cut"
  /** Optional, and not begun. */
  | "no time";

export interface ItemRecord {
  readonly name: string;
  readonly optional: boolean;
  status: ItemStatus;
  seconds: number;
  text: string;
  data?: unknown;
}

export type StageStatus = "waiting" | "running" | "ok" | "failed" | "cut" | "not run";

export interface StageRecord {
  readonly name: string;
  /** What one learns from it. */
  readonly teaches: string;
  /** Seconds it may take; null: what is left. */
  readonly bound: number | null;
  /** Seconds its required items should take. */
  readonly expected: number;
  state: "waiting" | "running" | "over";
  /** Written by `close` and when the record is stored. */
  status: StageStatus;
  seconds: number;
  /** Why it could not run, what it ran with instead. */
  notes: string[];
  /** Something went wrong outside every item. */
  fault: string | null;
  items: ItemRecord[];
}

export interface Survey {
  readonly format: 1;
  readonly version: string;
  readonly began: string;
  /** Seconds it was given. */
  readonly seconds: number;
  readonly dry: boolean;
  readonly library: string;
  /** What is known of PyTorch here. */
  peer: string;
  readonly stages: StageRecord[];
  /** Null while it runs; a report without it was cut. */
  ended: { readonly seconds: number; readonly how: "finished" | "interrupted" } | null;
}

const WRONG: readonly ItemStatus[] = ["failed", "hung", "died"];
export const isWrong = (item: ItemRecord): boolean => WRONG.includes(item.status);

export function statusOf(s: Pick<StageRecord, "state" | "fault" | "items">): StageStatus {
  if (s.state === "waiting") return "waiting";
  if (s.state === "running") return "running";
  if (s.fault !== null || s.items.some(isWrong)) return "failed";
  const whole = (i: ItemRecord): boolean => i.status === "ok" || i.status === "absent" || (i.optional && i.status === "no time");
  if (!s.items.every(whole)) return "cut";
  return s.items.some((i) => i.status === "ok") ? "ok" : "not run";
}

/** Nothing more will happen in this stage. */
export function close(s: StageRecord, seconds: number): void {
  for (const item of s.items) {
    if (item.status === "running") item.status = "cut";
    if (item.status === "waiting") item.status = item.optional ? "no time" : "cut";
  }
  s.state = "over";
  s.seconds = seconds;
  s.status = statusOf(s);
}
