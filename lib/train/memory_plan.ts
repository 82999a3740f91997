// Is there memory for a run? Asked before anything is allocated, because an operating system that overcommits kills late.
//
//   needed     activations of one micro-batch (the plan's table) + the state of what trains (f32 master, gradient, two moments)
//              + the host's share: encoded examples (which are there when this is asked), the order of the epochs, the rows of the
//              micro-batches under way, what is copied to save
//   available  what the machine can give without swapping, and every control group this process is in; on a GPU what is free there
// Frozen weights are not counted: on the CPU they are mapped files, page cache that comes and goes; on a GPU they are there already,
// and a trained weight's bf16 copy takes the place of the frozen one; what a method attached has one of its own.

import { debug } from "../debug.ts";
import { MemoryError } from "../errors.ts";
import { sliceKey } from "../files/slice.ts";
import type { TrainableSpec } from "../methods/method.ts";
import { planActivations } from "../model/decoder.ts";
import type { ModelSpec } from "../model/spec.ts";
import { parameterShapes } from "../model/spec.ts";
import { STATE_BYTES_PER_PARAMETER } from "../model/weights/training_state.ts";
import type { AskedOptions } from "../options.ts";
import type { Device, DType } from "../tensor.ts";
import { CHUNK as CHECKPOINT_CHUNK } from "./checkpoint.ts";

/** Rows per forward and backward when the caller names none: as many as make 4096 tokens. */
export function defaultMicroBatch(maxLength: number): number {
  return Math.max(1, Math.floor(4096 / maxLength));
}
/** Rows per forward and backward. */
export function microBatchOf({ rowsPerStep, microBatch, data }: AskedOptions): number {
  return Math.min(rowsPerStep, microBatch ?? defaultMicroBatch(data.maxLength));
}

/** Micro-batches that wait on the device beside the one that it computes: none idles it, more would only take memory. */
export const AHEAD = 1;

/** What ops take for themselves on a GPU: a chunk of logits (csrc/cuda/gemm/linear_cross_entropy.cu), and room for partial sums. */
function workspaceBytes(spec: ModelSpec, tokens: number): number {
  return Math.min(tokens * spec.vocab * 2, 224e6) + 2 ** 28;
}

/** The rows of a run, as far as the host's memory is concerned. */
export interface DataSize {
  /** Bytes of encoded examples, there already when a run is planned. */
  readonly held: number;
  readonly examples: number;
  /** Packing "esft": its rows are held beside the examples. */
  readonly repacked: boolean;
}
const NO_DATA: DataSize = { held: 0, examples: 0, repacked: false };

export interface MemoryPlan {
  readonly activationBytes: number;
  /** f32 master, gradient and two moments of what trains; on a GPU bf16 copies of what is attached. */
  readonly stateBytes: number;
  /** The host's share, encoded examples included. */
  readonly hostBytes: number;
  readonly bytes: number;
  /** The same bytes by what they are. */
  readonly parts: MemoryParts;
}
export interface MemoryParts {
  /** f32 masters of what trains, and bf16 copies of what is attached where products read nothing else. */
  readonly trained: number;
  readonly gradients: number;
  /** Two moments. */
  readonly optimizer: number;
  readonly activations: number;
  /** What ops take for themselves on a GPU; the CPU's is threads' own, some MiB. */
  readonly workspace: number;
  /** Rows under way, their order and what is copied to save. */
  readonly host: number;
  /** Encoded examples. */
  readonly data: number;
}

/** Where a run computes: activations of this dtype, in the host's memory or not. */
export type Where = Pick<Device["info"], "hostMemory" | "activationDtype">;
const HOST: Where = { hostMemory: true, activationDtype: "f32" };

/** Activations of a run's micro-batches of `tokens` tokens: of the stage that needs most. */
export function stepActivations(spec: ModelSpec, trainable: TrainableSpec, activation: DType, tokens: number): number {
  const { keys, attachments, stages } = trainable;
  const choices = stages?.map((s) => ({ keys, attachments, active: s.keys, lowestLayer: s.lowestLayer })) ?? [trainable];
  return Math.max(...choices.map((choice) => planActivations(spec, choice, activation).bytes(tokens)));
}

/** What a run with micro-batches of `tokens` tokens allocates, and the data that it holds. */
export function planMemory(spec: ModelSpec, trainable: TrainableSpec, tokens: number, where: Where = HOST, data = NO_DATA): MemoryPlan {
  const activation: DType = where.activationDtype;
  const plan = stepActivations(spec, trainable, activation, tokens);
  const workspace = where.hostMemory ? 0 : workspaceBytes(spec, tokens);
  const activationBytes = plan + workspace;
  const attached = (trainable.attachments?.parameters ?? []).reduce((n, { shape }) => n + shape.reduce((a, b) => a * b, 1), 0);
  const copies = !where.hostMemory && activation === "bf16" ? 2 * attached : 0;
  const stateBytes = trainable.allocated * STATE_BYTES_PER_PARAMETER + copies;
  const hostBytes = data.held + orderBytes(data) + tokens * ROW_BYTES_PER_TOKEN + savingBytes(spec, trainable);
  const each = trainable.allocated * (STATE_BYTES_PER_PARAMETER / 4);
  const host = hostBytes - data.held;
  const parts = { trained: each + copies, gradients: each, optimizer: 2 * each, activations: plan, workspace, host, data: data.held };
  return { activationBytes, stateBytes, hostBytes, bytes: activationBytes + stateBytes + hostBytes, parts };
}

/**
 * Of a micro-batch: an example's ids and labels (8), its row (five arrays, 20) and its place in the flat batch (four, 16), once for the
 * one that is made and once for the one before, not collected yet; uploads of those that wait, and where they go.
 */
const ROW_BYTES_PER_TOKEN = 2 * (8 + 20 + 16) + (AHEAD + 1) * 16 + 16;

/** Which examples are used (4 bytes each); items and starts of two epochs, and what a plan is made from (two orders). */
function orderBytes({ held, examples, repacked }: DataSize): number {
  return examples * (4 + 2 * 8 + 2 * 4) + (repacked ? 3 * held : 0); // rows grow by doubling, then are cut to size
}

/**
 * What is copied at a time: a part of a checkpoint and the one before, or the largest tensor of an adapter, read and encoded, and put in
 * the order of its file where that is another one.
 */
function savingBytes(spec: ModelSpec, { keys, attachments, allocated }: TrainableSpec): number {
  const trained = new Set(keys);
  const shapes = parameterShapes(spec).filter(({ ref }) => trained.has(sliceKey(ref)));
  const sizeOf = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);
  const tensors = shapes.map(({ shape, layout }) => (layout ? 12 : 8) * sizeOf(shape));
  const attached = (attachments?.parameters ?? []).map(({ shape }) => 8 * sizeOf(shape));
  return Math.max(8 * Math.min(CHECKPOINT_CHUNK, allocated), ...tensors, ...attached);
}

export interface MemoryRequest {
  readonly spec: ModelSpec;
  readonly trainable: TrainableSpec;
  /** Rows per micro-batch and their longest length. */
  readonly microBatch: number;
  readonly maxLength: number;
  /** Absent: the host. */
  readonly where?: Where;
  readonly data?: DataSize;
}

/** What a machine can still give: where it computes, and the host where that is another place. */
export interface Available {
  readonly device: number;
  readonly host: number;
}

/** @throws MemoryError the plan exceeds what is available: what is needed, what is there, and the three cheapest fixes */
export function requireMemory(request: MemoryRequest, available: Available): MemoryPlan {
  const { spec, trainable, microBatch, maxLength, where = HOST, data = NO_DATA } = request;
  const plan = planMemory(spec, trainable, microBatch * maxLength, where, data);
  const { stateBytes, activationBytes } = plan;
  const hostBytes = plan.hostBytes - data.held;
  const tokens = `${microBatch} × ${maxLength} tokens`;
  const state = `${size(stateBytes)} for ${trainable.parameters} trained parameters`;
  const there = where.hostMemory ? size(available.device) : `${size(available.device)} on the device, ${size(available.host)} on the host`;
  debug(
    "memory",
    () => `${state}, ${size(activationBytes)} of activations for ${tokens}, ${size(hostBytes)} on the host; available: ${there}`,
  );
  const refuse = (what: string, needed: number, whose: string, room: number, fixes: readonly string[]): never => {
    throw new MemoryError(
      `training needs ${what}, ${size(room)}${whose} are available. Cheapest fixes: ${fixes.map((fix, i) => `${i + 1}. ${fix}`).join("; ")}`,
      { where: { neededBytes: needed, availableBytes: room, stateBytes, activationBytes, hostBytes } },
    );
  };
  const host = `${size(hostBytes)} on the host for rows, their order and saving`;
  if (where.hostMemory) {
    const needed = stateBytes + activationBytes + hostBytes;
    if (needed > available.device)
      refuse(
        `${size(needed)} (${state}, ${size(activationBytes)} of activations for ${tokens}, ${host})`,
        needed,
        "",
        available.device,
        cheapestFixes(request, available.device),
      );
    return plan;
  }
  const needed = stateBytes + activationBytes;
  if (needed > available.device)
    refuse(
      `${size(needed)} (${state}, ${size(activationBytes)} of activations and working memory for ${tokens})`,
      needed,
      " of device memory",
      available.device,
      cheapestFixes(request, available.device),
    );
  if (hostBytes > available.host)
    refuse(`${host} beside the GPU's memory (${tokens}, ${data.examples} examples)`, hostBytes, "", available.host, [
      "microBatch 1 and a shorter data.maxLength",
      "fewer rows",
      MORE_MEMORY,
    ]);
  return plan;
}
const MORE_MEMORY = "a machine (or a memory limit of its container) with more memory";

/** In the order of what they cost: nothing but time, cut rows, fewer trained parameters. Each with the memory it leads to. */
function cheapestFixes(
  { spec, trainable, microBatch, maxLength, where = HOST, data = NO_DATA }: MemoryRequest,
  available: number,
): string[] {
  const need = (rows: number, length: number): number => {
    const { bytes, hostBytes } = planMemory(spec, trainable, rows * length, where, data);
    return bytes - (where.hostMemory ? data.held : hostBytes);
  };
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
  const smallest = need(1, maxLength) - trainable.allocated * STATE_BYTES_PER_PARAMETER;
  const fit = Math.floor((available - smallest) / STATE_BYTES_PER_PARAMETER);
  if (trainable.type === "full")
    fixes.push(`method esft instead of full: only selected experts cost ${STATE_BYTES_PER_PARAMETER} bytes per parameter`);
  else if (fit > 0 && fit < trainable.parameters)
    fixes.push(`fewer experts: select with maxTrainableParams ${fit} instead of ${trainable.parameters} parameters, or a smaller p`);
  fixes.push(where.hostMemory ? MORE_MEMORY : 'end other programs on this GPU, a GPU with more memory, or device "cpu"');
  return fixes.slice(0, 3);
}

export function size(bytes: number): string {
  const units = ["KiB", "MiB", "GiB", "TiB"];
  let value = Math.max(0, bytes) / 1024;
  let u = 0;
  while (value >= 1024 && u + 1 < units.length) {
    value /= 1024;
    u++;
  }
  return `${value.toFixed(value < 10 ? 2 : 1)} ${units[u]}`;
}
