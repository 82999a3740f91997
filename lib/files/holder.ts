// Who holds something on disk: a process told apart from every other one, and whether it is provably gone.
//
// A process id alone is not enough: it is given away again, after a restart of the machine and in other containers. What Linux knows
// of it is read from /proc; elsewhere those facts are null, and less can be proved.
import { createHash } from "node:crypto";
import { readFileSync, readlinkSync } from "node:fs";
import { hostname } from "node:os";
import { threadId } from "node:worker_threads";

export interface Holder {
  readonly host: string;
  /** Digest of the machine's id, where it has one. */
  readonly machine: string | null;
  /** Changes when the machine restarts. */
  readonly boot: string | null;
  /** Process ids of other namespaces (containers) mean other processes. */
  readonly namespace: string | null;
  readonly pid: number;
  /** When the process began, in clock ticks since the machine did. */
  readonly start: number | null;
  readonly thread: number;
}

let self: Holder | null = null;

export function thisHolder(): Holder {
  const { pid } = process;
  self ??= {
    host: hostname(),
    machine: digest(read("/etc/machine-id")),
    boot: read("/proc/sys/kernel/random/boot_id"),
    namespace: attempt(() => readlinkSync("/proc/self/ns/pid")),
    pid,
    start: stateOf(pid)?.start ?? null,
    thread: threadId,
  };
  return self;
}

// Of this thread, as long as it holds or writes them; one set, however many copies of this module there are.
const LIVE = Symbol.for("esft.live");
const shared = globalThis as { [LIVE]?: Set<string> };
/** Tokens of what this thread holds now. What bears its name and is not here was left by work that failed. */
export const live: Set<string> = (shared[LIVE] ??= new Set());

/** True when whoever holds `token` is provably gone. Of another machine or container nothing can be proved. */
export function isGone(holder: Holder, token: string): boolean {
  const me = thisHolder();
  if (holder.host !== me.host || holder.machine !== me.machine) return false;
  if (holder.boot !== me.boot) return holder.boot !== null && me.boot !== null;
  if (holder.namespace !== me.namespace) return false;
  if (holder.pid === me.pid && holder.start === me.start) return holder.thread === me.thread && !live.has(token);
  const now = stateOf(holder.pid);
  if (now === null) return !answers(holder.pid);
  return now.dead || (holder.start !== null && holder.start !== now.start);
}

/** From /proc/PID/stat; null where that cannot be read. A zombie is dead. */
function stateOf(pid: number): { readonly dead: boolean; readonly start: number } | null {
  const stat = read(`/proc/${pid}/stat`);
  if (stat === null) return null;
  // "pid (name) state ppid …": a name may hold spaces and brackets. starttime is field 22, state is field 3.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return { dead: fields[0] === "Z" || fields[0] === "X", start: Number(fields[19]) };
}

function answers(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== "ESRCH";
  }
}

const attempt = <T>(work: () => T): T | null => {
  try {
    return work();
  } catch {
    return null;
  }
};
const read = (path: string): string | null => attempt(() => readFileSync(path, "utf8").trim() || null);
const digest = (text: string | null): string | null => text && createHash("sha256").update(text).digest("hex").slice(0, 12);
