// The best instruction set of this machine that native code is built for, by the processor's flags.

import { existsSync, readFileSync } from "node:fs";

/** One name, or none where only the portable kernels run. */
export function bestInstructionSet(): string[] {
  if (process.arch !== "x64" || !existsSync("/proc/cpuinfo")) return [];
  const flags = new Set(/^flags\s*:(.*)$/m.exec(readFileSync("/proc/cpuinfo", "utf8"))?.[1]?.split(" "));
  const has = (...names: string[]): boolean => names.every((flag) => flags.has(flag));
  if (!has("avx2", "fma")) return [];
  if (!has("avx512f", "avx512bw", "avx512vl", "avx512dq")) return ["avx2"];
  return [has("avx512_bf16") ? "avx512bf16" : "avx512"];
}
