// What this machine can still give: free memory within the limits of every control group, or what is free on a GPU.

import { readFile } from "node:fs/promises";
import { freemem } from "node:os";
import { dirname, join } from "node:path";
import { MemoryError } from "../errors.ts";
import type { Dequantise } from "../options.ts";
import type { Device } from "../tensor.ts";
import { size } from "./memory_plan.ts";

/** Where the control groups of a process are described. */
export interface ControlGroups {
  readonly root: string;
  /** Which groups the process is in. */
  readonly self: string;
}
const THIS_PROCESS: ControlGroups = { root: "/sys/fs/cgroup", self: "/proc/self/cgroup" };

/** Bytes a run on `device` may still allocate: its own memory, or the host's. */
export async function availableOn(device: Device): Promise<number> {
  if (device.info.hostMemory) return availableMemory();
  const free = device.memoryFree();
  return free === 0 ? Number.POSITIVE_INFINITY : free; // not known: the allocations themselves will say
}

/** Bytes this process may still allocate: free memory and reclaimable cache, within the limits of its control groups. */
export async function availableMemory(groups: ControlGroups = THIS_PROCESS): Promise<number> {
  let available = freemem(); // on Linux MemAvailable: includes the page cache that can be dropped
  for (const left of await controlGroupRoom(groups)) available = Math.min(available, left);
  return Math.max(0, available);
}

const readNumber = async (path: string): Promise<number | null> => {
  const text = await readFile(path, "utf8").catch(() => "");
  return /^\d+\s*$/.test(text) ? Number(text) : null; // "max" and absent files: no limit
};

/** Room in every limited group from this process's one up to the root: limit − usage, where file cache counts as free. */
async function controlGroupRoom({ root, self }: ControlGroups): Promise<number[]> {
  const rooms: number[] = [];
  const groups = await readFile(self, "utf8").catch(() => "");
  for (const line of groups.split("\n")) {
    const found = /^\d+:([^:]*):(.*)$/.exec(line);
    if (found === null) continue;
    const [controllers, path] = found.slice(1) as [string, string];
    const second = controllers === "";
    if (!second && !controllers.split(",").includes("memory")) continue;
    const base = second ? root : join(root, "memory");
    const [max, current] = second ? ["memory.max", "memory.current"] : ["memory.limit_in_bytes", "memory.usage_in_bytes"];
    const cached = second ? /^(?:in)?active_file (\d+)$/gm : /^total_(?:in)?active_file (\d+)$/gm; // v1 lists own values too
    // Inside a container the path may be that of the host: the groups that can be seen from here are read.
    for (let at = path, below: string | null = null; at !== below; below = at, at = dirname(at)) {
      const folder = join(base, at);
      const [limit, used] = await Promise.all([readNumber(join(folder, max)), readNumber(join(folder, current))]);
      if (limit === null || used === null) continue;
      const stat = await readFile(join(folder, "memory.stat"), "utf8").catch(() => "");
      rooms.push([...stat.matchAll(cached)].reduce((sum, m) => sum + Number(m[1]), limit - used));
    }
  }
  return rooms;
}

/** For `room` of data/dataset.ts: encoded examples are refused before they are taken. @throws MemoryError */
export async function requireRoomForExamples(bytes: number): Promise<void> {
  const available = await availableMemory();
  if (bytes <= available) return;
  throw new MemoryError(
    `encoding the rows needs ${size(bytes)} more, ${size(available)} are available; use fewer rows, or a machine (or a memory limit of its container) with more memory`,
    { where: { neededBytes: bytes, availableBytes: available } },
  );
}

/** For `requireRoom` of experts/profiler.ts: what a backward keeps is refused before it is taken. @throws MemoryError */
export async function requireRoomForGradients(device: Device, bytes: number): Promise<void> {
  const available = await availableOn(device);
  if (bytes <= available) return;
  throw new MemoryError(
    `gradient scores need ${size(bytes)} of activations and weight gradients, ${size(available)} are available; ` +
      "use smaller batches (--batch-tokens, batchTokens) with a shorter maxLength, or profile without gradients",
    { where: { neededBytes: bytes, availableBytes: available } },
  );
}

/** Weights that cannot be used where they lie in their files are refused before memory is taken for copies. @throws MemoryError */
export async function requireRoomForWeights(dir: string, bytes: number, dequantise: Dequantise): Promise<void> {
  if (bytes === 0) return;
  const available = await availableMemory();
  if (bytes <= available) return;
  const smaller = dequantise === "exact" ? "dequantise bf16 (--dequantise bf16) where quantised ones become f32; " : "";
  throw new MemoryError(
    `${dir}: weights that are stored quantised, as F16 or transposed need ${size(bytes)} of memory when they are loaded, ${size(available)} are available. ` +
      `Fixes: ${smaller}a machine (or a memory limit of its container) with more memory, or a GPU`,
    { where: { file: dir, neededBytes: bytes, availableBytes: available } },
  );
}
