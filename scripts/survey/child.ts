// The process of one stage: runs its items one after another and says how each ended (protocol.ts). Argument: a Task as JSON.
//
// It ends with its parent: when stdin closes, the whole process group goes, so that a survey that was killed leaves nothing that computes.

import { writeSync } from "node:fs";
import { KernelError, MemoryError } from "../../lib/errors.ts";
import { Absent, Broken } from "./item.ts";
import type { Item, StageContext } from "./item.ts";
import { FRESH } from "./protocol.ts";
import type { Line, Task } from "./protocol.ts";
import { stages } from "./stages.ts";

/** Whole and at once, also when what follows ends the process. */
function say(line: Line): void {
  const bytes = Buffer.from(`${JSON.stringify(line)}\n`);
  for (let at = 0; at < bytes.length;)
    try {
      at += writeSync(3, bytes, at);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EAGAIN") throw error; // the parent is slow to read
    }
}
const task = JSON.parse(process.argv[2] ?? "null") as Task;

process.stdin.on("close", () => process.kill(-process.pid, "SIGKILL"));
process.stdin.resume();

/** @returns whether the device can be trusted afterwards */
async function runItem(item: Item): Promise<boolean> {
  say({ say: "begin", item: item.name, patience: task.dry ? null : (item.patience ?? null) });
  console.log(`── ${item.name}`);
  try {
    const { text, data } = await item.run((progress) => say({ say: "progress", item: item.name, text: progress }));
    say({ say: "end", item: item.name, status: "ok", text, ...(data === undefined ? {} : { data }) });
  } catch (error) {
    const text = error instanceof Error ? error.message : String(error);
    const data = error instanceof Absent || error instanceof Broken ? error.data : undefined;
    const status = error instanceof Absent ? "absent" : "failed";
    console.log(error);
    say({ say: "end", item: item.name, status, text, ...(data === undefined ? {} : { data }) });
    return !(error instanceof KernelError || error instanceof MemoryError || error instanceof Broken);
  }
  return true;
}

const stage = stages.find((s) => s.name === task.stage);
if (!stage) throw new Error(`expected a stage of stages.ts, found "${task.stage}"`);
const context: StageContext = task;
const all = await (await stage.load()).items(context);
say({ say: "plan", items: all.map(({ name, optional = false }) => ({ name, optional })) });
for (const item of all.filter(({ name }) => !task.done.includes(name))) {
  const left = (task.until - Date.now()) / 1000;
  if (item.optional && left < (item.needs ?? 1)) continue;
  if (!(await runItem(item))) process.exit(FRESH);
}
process.exit(0);
