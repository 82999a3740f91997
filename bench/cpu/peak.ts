// The machine's multiply-add and copy ceilings, measured between the rounds of a benchmark. Needs g++; without it, no ceiling.

import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, statSync } from "node:fs";
import { LineProcess } from "../line_process.ts";

export interface Ceiling {
  /** GFLOP/s. */
  readonly f32: number;
  /** GFLOP/s of bf16 dot products; 0 = the machine has none. */
  readonly bf16: number;
  /** GB/s, read and write counted. */
  readonly copy: number;
  /** GB/s of memory that no cache holds. */
  readonly read: number;
}

function isaFlags(): string[] {
  const info = existsSync("/proc/cpuinfo") ? readFileSync("/proc/cpuinfo", "utf8") : "";
  const flags = info.includes(" avx2") ? ["-mavx2", "-mfma"] : [];
  if (info.includes(" avx512bw")) flags.push("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq");
  if (info.includes(" avx512_bf16")) flags.push("-mavx512bf16");
  return flags;
}

export class PeakMeter {
  private readonly process: LineProcess;
  readonly samples: Ceiling[] = [];

  static start(): PeakMeter | null {
    const source = "bench/kernels/peak.cc";
    const binary = "build/bench/peak";
    mkdirSync("build/bench", { recursive: true });
    if (!existsSync(binary) || statSync(binary).mtimeMs < statSync(source).mtimeMs) {
      const built = spawnSync("g++", ["-std=c++17", "-O3", "-ffp-contract=fast", ...isaFlags(), source, "-o", binary, "-lpthread"], {
        stdio: "inherit",
      });
      if (built.status !== 0) return null;
    }
    return new PeakMeter(new LineProcess(binary, []));
  }
  private constructor(process: LineProcess) {
    this.process = process;
  }

  async sample(threads: number, milliseconds = 30): Promise<Ceiling> {
    const c = JSON.parse(await this.process.ask(`${threads} ${milliseconds}`)) as Ceiling;
    this.samples.push(c);
    return c;
  }
  stop(): void {
    this.process.stop();
  }
}
