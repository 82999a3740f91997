// What the GPU backend must reach on an H200, as code: each floor names the cases it is measured on, and judges them.

export interface FloorRow {
  readonly id: string;
  readonly ms: number;
  readonly flops: number | null;
  readonly bytes: number | null;
  readonly tokensPerSecond: number | null;
  /** TFLOP/s of cuBLAS 8192³ in the same minutes; null without PyTorch. */
  readonly cublas: number | null;
  readonly bitIdentical: boolean | null;
  /** Time of the fastest PyTorch variant over ours. */
  readonly speedup: number | null;
}
type Rows = ReadonlyMap<string, FloorRow>;

export interface Floor {
  readonly name: string;
  /** Whose PyTorch ratio stands beside it. */
  readonly cases: readonly string[];
  readonly unit: string;
  readonly floor: number;
  readonly stretch: number;
  /** "min": at least; "max": at most. */
  readonly sense: "min" | "max";
  /** Null: not measured in this run. */
  readonly measure: (rows: Rows) => number | null;
}

export type Verdict = "not measured" | "missed" | "floor" | "stretch";
export interface Judged {
  readonly floor: Floor;
  readonly value: number | null;
  readonly speedup: number | null;
  readonly verdict: Verdict;
}

const tflops = (row: FloorRow | undefined): number | null => (row?.flops ? row.flops / row.ms / 1e9 : null);

function rate(name: string, id: string, floor: number, stretch: number): Floor {
  return { name, cases: [id], unit: "TFLOP/s", floor, stretch, sense: "min", measure: (rows) => tflops(rows.get(id)) };
}

/** Percent of speed that a routing loses against uniform routing; useful work is the same. */
function loss(name: string, mode: string): Floor {
  const id = (routing: string): string => `layer/dsv2-lite-T32768-${routing}/bf16/${mode}`;
  return {
    name,
    cases: [id("lognormal1.0")],
    unit: "% lost",
    floor: 8,
    stretch: 4,
    sense: "max",
    measure: (rows) => {
      const [even, skewed] = [tflops(rows.get(id("uniform"))), tflops(rows.get(id("lognormal1.0")))];
      return even === null || skewed === null ? null : (1 - skewed / even) * 100;
    },
  };
}

const gemm = "gemm/8192x8192/bf16/M8192";
const esft = "layer/dsv2-lite-T8192-lognormal0.7/bf16/bwd-esft";
const adamw = "adamw/1.07B/bf16/step";
const step = "step/deepseek-v2-lite/bf16/esft";

export const floors: readonly Floor[] = [
  {
    name: "dense bf16 8192³, share of cuBLAS",
    cases: [gemm],
    unit: "%",
    floor: 85,
    stretch: 98,
    sense: "min",
    measure: (rows) => {
      const row = rows.get(gemm);
      const own = tflops(row);
      return own !== null && row?.cublas ? (own / row.cublas) * 100 : null;
    },
  },
  rate("MoE layer forward, DeepSeek-V2-Lite, T 32768", "layer/dsv2-lite-T32768-uniform/bf16/fwd", 450, 600),
  rate("MoE layer backward, all experts, T 32768", "layer/dsv2-lite-T32768-uniform/bf16/bwd-all", 430, 570),
  loss("forward under log-normal σ = 1", "fwd"),
  loss("backward under log-normal σ = 1", "bwd-all"),
  {
    name: "ESFT backward, 5 hottest of 64, T 8192",
    cases: [esft],
    unit: "ms",
    floor: 2.3,
    stretch: 1.7,
    sense: "max",
    measure: (rows) => rows.get(esft)?.ms ?? null,
  },
  rate("linear + cross-entropy, 8192 × 2048 × 102400", "head/d2048-V102400/bf16/train", 550, 700),
  rate("attention 192/128 forward", "attention/hd192v128-S4096/bf16/fwd", 350, 600),
  rate("attention 192/128 backward", "attention/hd192v128-S4096/bf16/bwd", 250, 440),
  {
    name: "AdamW, 1.07 B parameters",
    cases: [adamw],
    unit: "TB/s",
    floor: 3.4,
    stretch: 4.0,
    sense: "min",
    measure: (rows) => {
      const row = rows.get(adamw);
      return row?.bytes ? row.bytes / row.ms / 1e9 : null;
    },
  },
  {
    name: "whole ESFT step, DeepSeek-V2-Lite, 2 × 4096",
    cases: [step],
    unit: "tokens/s",
    floor: 26_000,
    stretch: 40_000,
    sense: "min",
    measure: (rows) => rows.get(step)?.tokensPerSecond ?? null,
  },
  {
    name: "two runs bit-identical",
    cases: [],
    unit: "% of cases",
    floor: 100,
    stretch: 100,
    sense: "min",
    measure: (rows) => {
      const checked = [...rows.values()].filter((row) => row.bitIdentical !== null);
      return checked.length === 0 ? null : (checked.filter((row) => row.bitIdentical).length / checked.length) * 100;
    },
  },
];

export function judge(rows: readonly FloorRow[]): Judged[] {
  const byId = new Map(rows.map((row) => [row.id, row]));
  return floors.map((floor) => {
    const value = floor.measure(byId);
    const speedup = floor.cases.map((id) => byId.get(id)?.speedup ?? null).find((x) => x !== null) ?? null;
    const reaches = (limit: number): boolean => (floor.sense === "min" ? value! >= limit : value! <= limit);
    const verdict: Verdict =
      value === null ? "not measured" : reaches(floor.stretch) ? "stretch" : reaches(floor.floor) ? "floor" : "missed";
    return { floor, value, speedup, verdict };
  });
}
