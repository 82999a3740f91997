// Is there memory for a run? Asked before anything is allocated, because an operating system that overcommits kills late.
//
//   needed     activations of one micro-batch (the plan's table) + the state of what trains (f32 master, gradient, two moments)
//   available  what the machine can give without swapping, and every control group this process is in; on a GPU what is free there
// Frozen weights are not counted: on the CPU they are mapped files, page cache that comes and goes; on a GPU they are there already,
// and a trained weight's bf16 copy takes the place of the frozen one.

import { readFile } from "node:fs/promises";
import { freemem } from "node:os";
import { dirname, join } from "node:path";
import { MemoryError } from "../errors.ts";
import type { ModelSpec } from "../model/spec.ts";
import type { Device, DType } from "../tensor.ts";
import { planActivations } from "../model/decoder.ts";
import { STATE_BYTES_PER_PARAMETER } from "../model/weights/training_state.ts";
import type { TrainableSpec } from "../methods/method.ts";
import type { TrainOptions } from "../options.ts";

/** Rows per forward and backward when the caller names none: as many as make 4096 tokens. */
export function defaultMicroBatch(maxLength: number): number {
  return Math.max(1, Math.floor(4096 / maxLength));
}
/** Rows per forward and backward. */
export function microBatchOf({ rowsPerStep, microBatch, data }: TrainOptions): number {
  return Math.min(rowsPerStep, microBatch ?? defaultMicroBatch(data.maxLength));
}

/** What ops take for themselves on a GPU: a chunk of logits (csrc/cuda/gemm/linear_cross_entropy.cu), and room for partial sums. */
function workspaceBytes(spec: ModelSpec, tokens: number): number {
  return Math.min(tokens * spec.vocab * 2, 224e6) + 2 ** 28;
}

export interface MemoryPlan {
  readonly activationBytes: number;
  /** f32 master, gradient and two moments of what trains. */
  readonly stateBytes: number;
  readonly bytes: number;
}

/** Where a run computes: activations of this dtype, in the host's memory or not. */
export type Where = Pick<Device["info"], "hostMemory" | "activationDtype">;
const HOST: Where = { hostMemory: true, activationDtype: "f32" };

/** What a run with micro-batches of `tokens` tokens allocates. */
export function planMemory(spec: ModelSpec, trainable: TrainableSpec, tokens: number, where: Where = HOST): MemoryPlan {
  const activation: DType = where.activationDtype;
  const plan = planActivations(spec, trainable, activation).bytes(tokens);
  const activationBytes = plan + (where.hostMemory ? 0 : workspaceBytes(spec, tokens));
  const stateBytes = trainable.parameters * STATE_BYTES_PER_PARAMETER;
  return { activationBytes, stateBytes, bytes: activationBytes + stateBytes };
}

export interface MemoryRequest {
  readonly spec: ModelSpec;
  readonly trainable: TrainableSpec;
  /** Rows per micro-batch and their longest length. */
  readonly microBatch: number;
  readonly maxLength: number;
  /** Absent: the host. */
  readonly where?: Where;
}

/** @throws MemoryError the plan exceeds `available` bytes: what is needed, what is there, and the three cheapest fixes */
export function requireMemory(request: MemoryRequest, available: number): MemoryPlan {
  const { spec, trainable, microBatch, maxLength, where } = request;
  const plan = planMemory(spec, trainable, microBatch * maxLength, where);
  if (plan.bytes <= available) return plan;
  const fixes = cheapestFixes(request, available).map((fix, i) => `${i + 1}. ${fix}`);
  throw new MemoryError(
    `training needs ${size(plan.bytes)} (${size(plan.stateBytes)} for ${trainable.parameters} trained parameters, ${size(plan.activationBytes)} of ` +
      `activations${where?.hostMemory === false ? " and working memory" : ""} for ${microBatch} × ${maxLength} tokens), ${size(available)}${where?.hostMemory === false ? " of device memory" : ""} are available. Cheapest fixes: ${fixes.join("; ")}`,
    { where: { neededBytes: plan.bytes, availableBytes: available, stateBytes: plan.stateBytes, activationBytes: plan.activationBytes } },
  );
}

/** In the order of what they cost: nothing but time, cut rows, fewer trained parameters. Each with the memory it leads to. */
function cheapestFixes({ spec, trainable, microBatch, maxLength, where }: MemoryRequest, available: number): string[] {
  const need = (rows: number, length: number): number => planMemory(spec, trainable, rows * length, where).bytes;
  const verdict = (bytes: number): string => `${size(bytes)}${bytes <= available ? "" : ", still too much"}`;
  const fixes: string[] = [];
  let rows = microBatch;
  while (rows > 1 && need(rows, maxLength) > available) rows = Math.floor(rows / 2);
  if (rows < microBatch)
    fixes.push(`microBatch ${rows} instead of ${microBatch} (same result up to rounding): ${verdict(need(rows, maxLength))}`);
  const shortest = (of: number): number => {
    let length = maxLength;
    while (length > 16 && need(of, length) > available) length = Math.ceil(length / 2);
    return length;
  };
  const same = need(microBatch, shortest(microBatch)) <= available ? microBatch : 1;
  const length = shortest(same);
  if (length < maxLength)
    fixes.push(
      `data.maxLength ${length} instead of ${maxLength}${same === microBatch ? "" : " with microBatch 1"}: ${verdict(need(same, length))}`,
    );
  const smallest = planMemory(spec, trainable, maxLength, where).activationBytes;
  const fit = Math.floor((available - smallest) / STATE_BYTES_PER_PARAMETER);
  if (trainable.type === "full")
    fixes.push(`method esft instead of full: only selected experts cost ${STATE_BYTES_PER_PARAMETER} bytes per parameter`);
  else if (fit > 0 && fit < trainable.parameters)
    fixes.push(`fewer experts: select with maxTrainableParams ${fit} instead of ${trainable.parameters} parameters, or a smaller p`);
  fixes.push(
    where?.hostMemory === false
      ? 'end other programs on this GPU, a GPU with more memory, or device "cpu"'
      : "a machine (or a memory limit of its container) with more memory",
  );
  return fixes.slice(0, 3);
}

function size(bytes: number): string {
  const units = ["KiB", "MiB", "GiB", "TiB"];
  let value = Math.max(0, bytes) / 1024;
  let u = 0;
  while (value >= 1024 && u + 1 < units.length) {
    value /= 1024;
    u++;
  }
  return `${value.toFixed(value < 10 ? 2 : 1)} ${units[u]}`;
}

/** Bytes a run on `device` may still allocate: its own memory, or the host's. */
export async function availableOn(device: Device): Promise<number> {
  if (device.info.hostMemory) return availableMemory();
  const free = device.memoryFree();
  return free === 0 ? Number.POSITIVE_INFINITY : free; // not known: the allocations themselves will say
}

/** Bytes this process may still allocate: free memory and reclaimable cache, within the limits of its control groups. */
export async function availableMemory(): Promise<number> {
  let available = freemem(); // on Linux MemAvailable: includes the page cache that can be dropped
  for (const left of await controlGroupRoom()) available = Math.min(available, left);
  return Math.max(0, available);
}

const readNumber = async (path: string): Promise<number | null> => {
  const text = await readFile(path, "utf8").catch(() => "");
  return /^\d+\s*$/.test(text) ? Number(text) : null; // "max" and absent files: no limit
};

/** Room in every limited group from this process's one up to the root: limit − usage, where file cache counts as free. */
async function controlGroupRoom(root = "/sys/fs/cgroup"): Promise<number[]> {
  const rooms: number[] = [];
  const groups = await readFile("/proc/self/cgroup", "utf8").catch(() => "");
  for (const line of groups.split("\n")) {
    const [, controllers, path] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
    if (path === undefined || controllers === undefined) continue;
    const second = controllers === "";
    if (!second && !controllers.split(",").includes("memory")) continue;
    const base = second ? root : join(root, "memory");
    const files = second ? ["memory.max", "memory.current"] : ["memory.limit_in_bytes", "memory.usage_in_bytes"];
    // Inside a container the path may be that of the host: the groups that can be seen from here are read.
    for (let at = path; ; at = dirname(at)) {
      const folder = join(base, at);
      const [limit, used] = await Promise.all(files.map((file) => readNumber(join(folder, file))));
      if (limit !== null && limit !== undefined && used !== null && used !== undefined && limit < 2 ** 60) {
        const stat = await readFile(join(folder, "memory.stat"), "utf8").catch(() => "");
        const cache = [...stat.matchAll(/^(?:total_)?(?:in)?active_file (\d+)$/gm)].map((m) => Number(m[1]));
        const own = second ? cache : cache.slice(-2); // v1 lists own and total_ values; the totals come last
        rooms.push(limit - used + own.reduce((a, b) => a + b, 0));
      }
      if (at === "/" || at === "." || at === "") break;
    }
  }
  return rooms;
}
