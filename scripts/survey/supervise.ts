// Runs a stage under its bound. Its items run in a child process; one that dies, hangs or breaks the device costs one item, and what is
// left goes on in a new process. The child leads a process group, which is killed with it.

import { spawn } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { closeSync, openSync, readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import type { Readable } from "node:stream";
import { root } from "../run.ts";
import { FRESH } from "./protocol.ts";
import type { Line, Task } from "./protocol.ts";
import { close } from "./record.ts";
import type { ItemRecord, StageRecord } from "./record.ts";

export interface Supervision {
  /** The program of a child; its last argument becomes the task. */
  readonly command: readonly string[];
  readonly env: NodeJS.ProcessEnv;
  readonly task: Omit<Task, "done" | "stage">;
  /** Takes what the children print. */
  readonly log: string;
  /** Something of the record is new. */
  readonly changed: () => void;
  /** Ends the stage at once. */
  readonly signal: AbortSignal;
}

/** How a child's life ended: nothing left to do, asking for another process, by itself, or killed. */
type Death = "done" | "fresh" | "died" | "bound" | "patience" | "abort";

/** A process in the driver may ignore even SIGKILL for a while: nobody waits for it longer than this. */
const LAST_WAIT_MS = 3000;

class Life {
  readonly stage: StageRecord;
  private readonly how: Supervision;
  private readonly child: ChildProcess;
  private patience: NodeJS.Timeout | undefined;
  private patienceSeconds: number | null = null;
  private began = 0;
  /** An item began. */
  lived = false;
  death: Death | null = null;
  /** Of one that died. */
  words = "";

  constructor(stage: StageRecord, how: Supervision) {
    this.stage = stage;
    this.how = how;
    const [program = process.execPath, ...args] = how.command;
    const done = stage.items.filter((i) => i.status !== "waiting").map((i) => i.name);
    const task: Task = { ...how.task, stage: stage.name, done };
    const log = openSync(how.log, "a");
    this.child = spawn(program, [...args, JSON.stringify(task)], {
      cwd: root,
      env: how.env,
      detached: true,
      stdio: ["pipe", log, log, "pipe"],
    });
    closeSync(log);
    this.child.stdin?.on("error", () => undefined);
  }

  async end(): Promise<void> {
    const lines = createInterface({ input: this.child.stdio[3] as Readable });
    lines.on("line", (text) => this.hear(text));
    const heard = new Promise<void>((resolve) => lines.on("close", resolve));
    const ended = new Promise<void>((resolve) => {
      const over = (death: Death, words = ""): void => {
        this.death ??= death;
        this.words = words;
        resolve();
      };
      this.child.on("error", (error) => over("died", String(error)));
      this.child.on("exit", (code, signal) =>
        code === 0 ? over("done") : code === FRESH ? over("fresh") : over("died", signal ?? `exit ${code}`),
      );
    });
    const gone = new Promise<void>((resolve) => {
      const kill = (death: Death): void => {
        this.death ??= death;
        this.kill();
        setTimeout(resolve, LAST_WAIT_MS).unref();
      };
      this.onPatience = () => kill("patience");
      const bound = setTimeout(() => kill("bound"), Math.max(0, this.how.task.until - Date.now()));
      const abort = (): void => kill("abort");
      this.how.signal.addEventListener("abort", abort);
      if (this.how.signal.aborted) abort();
      void ended.then(() => {
        clearTimeout(bound);
        this.how.signal.removeEventListener("abort", abort);
      });
    });
    await Promise.race([ended, gone]);
    clearTimeout(this.patience);
    this.kill(); // what the child has started and left
    await Promise.race([heard, new Promise((resolve) => setTimeout(resolve, 1000).unref())]);
    this.bury();
  }
  private onPatience: () => void = () => undefined;

  private kill(): void {
    try {
      if (this.child.pid !== undefined) process.kill(-this.child.pid, "SIGKILL");
    } catch {
      // gone already
    }
  }

  private find(name: string): ItemRecord | undefined {
    return this.stage.items.find((i) => i.name === name);
  }

  private hear(text: string): void {
    const line = parse(text);
    if (line === null) return;
    if (line.say === "plan") {
      if (this.stage.items.length === 0)
        this.stage.items = line.items.map(({ name, optional }) => ({ name, optional, status: "waiting", seconds: 0, text: "" }));
    } else {
      const item = this.find(line.item);
      if (!item) return;
      this.lived = true;
      if (line.say === "begin") {
        this.began = performance.now();
        this.patienceSeconds = line.patience;
        item.status = "running";
      } else {
        item.text = line.text;
        item.seconds = (performance.now() - this.began) / 1000;
        if (line.say === "end") {
          item.status = line.status;
          if (line.data !== undefined) item.data = line.data;
        }
      }
      clearTimeout(this.patience);
      if (line.say !== "end" && this.patienceSeconds !== null)
        this.patience = setTimeout(() => this.onPatience(), this.patienceSeconds * 1000);
    }
    this.how.changed();
  }

  /** An item that ran when the process ended has this end, too. */
  private bury(): void {
    const item = this.stage.items.find((i) => i.status === "running");
    if (!item) return;
    item.seconds = (performance.now() - this.began) / 1000;
    const soFar = item.text ? `${item.text}; ` : "";
    if (this.death === "patience") {
      item.status = "hung";
      item.text = `${soFar}no sign of life for ${this.patienceSeconds} s`;
    } else if (this.death === "died") {
      item.status = "died";
      item.text = `${soFar}${this.words}: ${lastWords(this.how.log)}`;
    } else item.status = item.optional && item.text === "" ? "no time" : "cut";
  }
}

/** Null: a line that was torn when its child was killed. */
function parse(text: string): Line | null {
  try {
    return JSON.parse(text) as Line;
  } catch {
    return null;
  }
}

/** The end of what a child printed. */
function lastWords(log: string): string {
  const lines = readFileSync(log, "utf8").trimEnd().split("\n").slice(-3);
  return lines.join(" ").slice(-400);
}

/** Runs the stage to its end or to its bound; afterwards its record is closed. */
export async function supervise(stage: StageRecord, how: Supervision): Promise<void> {
  const began = performance.now();
  stage.state = stage.status = "running";
  how.changed();
  const waiting = (): number => stage.items.filter((i) => i.status === "waiting").length;
  for (let left = Infinity; Date.now() < how.task.until && !how.signal.aborted; left = waiting()) {
    const life = new Life(stage, how);
    await life.end();
    const { death, lived, words } = life;
    if (death === "died" && !lived) stage.fault = `a process ended before an item began (${words}): ${lastWords(how.log)}`;
    else if (death === "died" && waiting() === 0 && stage.items.at(-1)?.status !== "died") stage.notes.push(`${words} after the last item`);
    if (death === "done" || !lived || waiting() === 0 || waiting() === left) break;
  }
  if (stage.items.length === 0 && stage.fault === null) stage.notes.push("its time was over before it had an item");
  close(stage, (performance.now() - began) / 1000);
  how.changed();
}
