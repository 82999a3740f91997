// oneDNN and OpenBLAS beside our f32 products, when their libraries are installed (and g++ is there to build the small caller).

import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, statSync } from "node:fs";
import { LineProcess } from "../line_process.ts";

const libraries = ["onednn", "openblas"] as const;
export type OracleName = (typeof libraries)[number];

export class Oracles {
  private readonly process: LineProcess;
  readonly names: OracleName[] = [];

  static async start(): Promise<Oracles | null> {
    const source = "bench/kernels/oracle.cc";
    const binary = "build/bench/oracle";
    mkdirSync("build/bench", { recursive: true });
    if (!existsSync(binary) || statSync(binary).mtimeMs < statSync(source).mtimeMs) {
      const built = spawnSync("g++", ["-std=c++17", "-O2", source, "-o", binary, "-ldl"], { stdio: "inherit" });
      if (built.status !== 0) return null;
    }
    const oracles = new Oracles(new LineProcess(binary, []));
    for (const name of libraries) if ((await oracles.gflops(name, 1, 8, 8, 8, 1)) !== null) oracles.names.push(name);
    return oracles;
  }
  private constructor(process: LineProcess) {
    this.process = process;
  }

  /** Median GFLOP/s of a slice; null when the library is not installed. */
  async gflops(name: OracleName, threads: number, M: number, N: number, K: number, milliseconds: number): Promise<number | null> {
    return (JSON.parse(await this.process.ask(`${name} ${threads} ${M} ${N} ${K} ${milliseconds}`)) as { gflops: number | null }).gflops;
  }
  stop(): void {
    this.process.stop();
  }
}
