// The stages of the survey, in the order of what they teach: each is worth less than the ones before it, and is not believed where one of
// them failed. Seconds are of a survey of 480; others are scaled.

import type { StageModule } from "./item.ts";

export const WHOLE = 480;

export interface Stage {
  readonly name: string;
  readonly teaches: string;
  /** Of WHOLE; null: what is left. */
  readonly seconds: number | null;
  /** What its required items should take on an H200. An estimate: nothing was measured when it was written. */
  readonly expected: number;
  /** Runs with the library whose waits are bounded, where there is one. */
  readonly debug?: boolean;
  readonly load: () => Promise<StageModule>;
}

export const stages: readonly Stage[] = [
  {
    name: "machine",
    teaches: "driver, clocks, the device, whether compute-sanitizer and ncu work",
    seconds: 10,
    expected: 8,
    load: () => import("./stages/machine.ts"),
  },
  {
    name: "probes",
    teaches: "does every kernel family end, and rightly, at the size of a tile",
    seconds: 40,
    expected: 20,
    debug: true,
    load: () => import("./stages/probes.ts"),
  },
  {
    name: "tables",
    teaches: "values against the reference: grouped products, attention, routing",
    seconds: 60,
    expected: 30,
    load: () => import("./stages/tables.ts"),
  },
  {
    name: "golden",
    teaches: "whole models against Hugging Face's numbers, bf16, on the kernels of this GPU and on those of any",
    seconds: 40,
    expected: 20,
    load: () => import("./stages/golden.ts"),
  },
  {
    name: "headline",
    teaches: "floors, cuBLAS and the strongest PyTorch",
    seconds: 150,
    expected: 60,
    load: () => import("./stages/headline.ts"),
  },
  {
    name: "step",
    teaches: "the whole ESFT step of DeepSeek-V2-Lite, ours and PyTorch's",
    seconds: 90,
    expected: 75,
    load: () => import("./stages/step.ts"),
  },
  {
    name: "flags",
    teaches: "which settings of the kernels win (A/B)",
    seconds: 60,
    expected: 45,
    load: () => import("./stages/flags.ts"),
  },
  {
    name: "soak",
    teaches: "the same bits again and again",
    seconds: null,
    expected: 20,
    load: () => import("./stages/soak.ts"),
  },
];
