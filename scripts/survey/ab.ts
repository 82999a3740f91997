// Which settings of the CUDA kernels are held against each other, and on what. A test sees to it that every variable that the library
// reads is either here or has a reason not to be.

export interface Flag {
  readonly name: string;
  /** The first one is the default. */
  readonly values: readonly [string, string];
  /** Cases of the benchmark. */
  readonly cases: readonly string[];
  /** Why the bits may differ; without it they must not. */
  readonly otherBits?: string;
}

const layer = (mode: string): string => `layer/dsv2-lite-T8192-${mode}`;

export const flags: readonly Flag[] = [
  {
    name: "ESFT_CUDA_CLUSTER",
    values: ["2", "1"],
    cases: [
      layer("uniform/bf16/fwd"),
      layer("uniform/bf16/bwd-all"),
      layer("lognormal0.7/bf16/bwd-esft"),
      "gemm/8192x8192/bf16/M8192",
      "head/d2048-V102400/bf16/train",
      "layer/dsv2-lite-T32768-uniform/bf16/fwd",
      "layer/dsv2-lite-T32768-uniform/bf16/bwd-all",
    ],
  },
  {
    name: "ESFT_CUDA_PDL",
    values: ["1", "0"],
    cases: [layer("uniform/bf16/fwd"), layer("lognormal0.7/bf16/bwd-esft"), "head/d2048-V102400/bf16/train"],
  },
  {
    name: "ESFT_CUDA_TILES",
    values: ["auto", "wide"],
    cases: ["layer/olmoe-T8192-uniform/bf16/fwd", "layer/qwen3-30b-T8192-uniform/bf16/fwd", layer("uniform/bf16/fwd")],
  },
  {
    name: "ESFT_CUDA_STORE",
    values: ["tma", "rows"],
    cases: [
      layer("uniform/bf16/fwd"),
      layer("uniform/bf16/bwd-all"),
      layer("lognormal0.7/bf16/bwd-esft"),
      "gemm/8192x8192/bf16/M8192",
      "head/d2048-V102400/bf16/train",
    ],
  },
  {
    name: "ESFT_CUDA_GRAPH",
    values: ["1", "0"],
    cases: [layer("uniform/bf16/fwd"), layer("lognormal0.7/bf16/bwd-esft"), "head/d2048-V102400/bf16/train"],
  },
  {
    name: "ESFT_CUDA_ATTENTION_FORWARD",
    values: ["persistent", "tiles"],
    cases: ["attention/hd192v128-S4096/bf16/fwd", "attention/hd128-S4096/bf16/fwd", "attention/hd64-S4096/bf16/fwd"],
  },
  {
    name: "ESFT_CUDA_ATTENTION_BACKWARD",
    values: ["one", "two"],
    cases: ["attention/hd192v128-S4096/bf16/bwd", "attention/hd128-S4096/bf16/bwd", "attention/hd64-S4096/bf16/bwd"],
    otherBits: "dq is summed over blocks of keys in one pass, in registers in two",
  },
];

/** Read and not compared. */
export const notCompared: Readonly<Record<string, string>> = {
  ESFT_CUDA_PATH: "the portable kernels are for other GPUs; the other stages run both",
  ESFT_CUDA_CACHE: "means nothing on a GPU",
};

/** What survey.json keeps of a comparison. */
export interface Compared {
  readonly flag: string;
  readonly values: readonly [string, string];
  readonly case: string;
  /** Milliseconds of a call with either value. */
  readonly ms: readonly [number, number];
  /** Time with the second over time with the first, the median over blocks that alternate. */
  readonly ratio: number;
  /** The outputs have the same bits, or those of a flag that may change them. */
  readonly same: boolean;
  readonly no: string | null;
}
