import { tmpdir } from "node:os";
import { join } from "node:path";
import { defineConfig } from "vitest/config";
import { BaseSequencer, type TestSpecification } from "vitest/node";

/** Minutes of emulation begin first, so that no processor waits for them at the end. */
class LongFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const isLong = ({ moduleId }: TestSpecification): boolean => /\/test\/cuda\/(grouped_gemm|attention|golden|lora)/.test(moduleId);
    const sorted = await super.sort(files);
    return [...sorted.filter(isLong), ...sorted.filter((file) => !isLong(file))];
  }
}

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    // What "auto" is in tests: the same on every machine. Tests of a GPU name it (test/cuda).
    // More threads than processors, where a test asks for them: that bits do not depend on their number is to be seen on any machine.
    // Models of the hub: what no test has made is in no cache, and is not asked for (test/hub/fake_hub.ts).
    env: {
      ESFT_DEVICE: process.env.ESFT_DEVICE ?? "cpu",
      ESFT_OVERSUBSCRIBE: "1",
      HF_HOME: join(tmpdir(), "esft-no-hub"),
      HF_HUB_CACHE: "",
      HF_TOKEN: "",
      HF_HUB_OFFLINE: "1",
    },
    // A native crash then kills one file, not the run.
    pool: "forks",
    maxWorkers: 2,
    // Generous: the emulation of a GPU shares two cores with everything else.
    testTimeout: 60_000,
    sequence: { sequencer: LongFirst },
    hookTimeout: 120_000,
  },
});
