// What is kept of a measured case: one object per case in the JSON file, from which every table is made.

import type { NativeDeviceInfo } from "../../lib/native.ts";
import type { FloorRow } from "./floors.ts";
import type { Times } from "./measure.ts";

export interface PeerResult {
  readonly id: string;
  readonly ms: number;
  /** Submitted call by call, where `ms` is of a replayed CUDA graph. */
  readonly eagerMs: number | null;
  readonly bytes: number | null;
  readonly extraBytes: number | null;
}

export interface GpuRow extends FloorRow {
  readonly headline: boolean;
  /** `ms` is the median of this: the replayed graph, or eager where nothing can be recorded. */
  readonly times: Times;
  readonly how: "graph" | "eager";
  readonly eager: Times;
  /** Buffer sets in turn. */
  readonly sets: number;
  readonly setBytes: number;
  /** Working memory that the first call took. */
  readonly extraBytes: number;
  readonly facts: Readonly<Record<string, number>>;
  /** TFLOP/s of cuBLAS and TB/s of torch's copy, right before this case. */
  readonly cublas: number | null;
  readonly copy: number | null;
  /** Why the case could not be recorded and was timed eagerly. */
  readonly graphError: string | null;
  readonly finite: boolean;
  readonly bitsCompared: number;
  /** The fastest variant of the peer, interleaved with ours; `others` were slower or failed in the trial before. */
  readonly peer: PeerResult | null;
  readonly others: Readonly<Record<string, number | string>>;
}

export interface GpuReport {
  readonly machine: NativeDeviceInfo;
  /** Sizes that prove the cases and measure nothing. */
  readonly tiny: boolean;
  /** Name, driver, clocks, power as nvidia-smi says them, before and after. */
  readonly gpu: readonly string[];
  readonly peer: Readonly<Record<string, unknown>> | null;
  readonly commit: string;
  readonly command: string;
  readonly date: string;
  /** Our own copy (op cast) at the start, TB/s. */
  readonly ownCopy: number | null;
  readonly rows: readonly GpuRow[];
  readonly failures: Readonly<Record<string, string>>;
}
