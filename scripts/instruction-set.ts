// The instruction sets that tests of native code are built for: the portable one and the best of this machine, by the processor's flags.

import { existsSync, readFileSync } from "node:fs";

/** Names as CMake's ESFT_ISAS takes them, best first. */
export function instructionSets(): string[] {
  if (process.arch === "arm64") return ["neon"];
  if (process.arch !== "x64" || !existsSync("/proc/cpuinfo")) return ["baseline"];
  const flags = new Set(/^flags\s*:(.*)$/m.exec(readFileSync("/proc/cpuinfo", "utf8"))?.[1]?.split(" "));
  const has = (...names: string[]): boolean => names.every((flag) => flags.has(flag));
  if (!has("avx2", "fma")) return ["baseline"];
  if (!has("avx512f", "avx512bw", "avx512vl", "avx512dq")) return ["avx2", "baseline"];
  return [has("avx512_bf16") ? "avx512bf16" : "avx512", "baseline"];
}
