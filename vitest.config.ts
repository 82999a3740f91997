import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    // What "auto" is in tests: the same on every machine. Tests of a GPU name it (test/cuda).
    // More threads than processors, where a test asks for them: that bits do not depend on their number is to be seen on any machine.
    env: { ESFT_DEVICE: process.env.ESFT_DEVICE ?? "cpu", ESFT_OVERSUBSCRIBE: "1" },
    // A native crash then kills one file, not the run.
    pool: "forks",
    maxWorkers: 2,
    // Generous: the emulation of a GPU shares two cores with everything else.
    testTimeout: 60_000,
    hookTimeout: 120_000,
  },
});
