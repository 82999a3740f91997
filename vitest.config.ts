import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    // What "auto" is in tests: the same on every machine. Tests of a GPU name it (test/cuda).
    env: { ESFT_DEVICE: process.env.ESFT_DEVICE ?? "cpu" },
    // A native crash then kills one file, not the run.
    pool: "forks",
    maxWorkers: 2,
    testTimeout: 60_000,
  },
});
