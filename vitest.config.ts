import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    // A native crash then kills one file, not the run.
    pool: "forks",
    maxWorkers: 2,
    testTimeout: 60_000,
  },
});
