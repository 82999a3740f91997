// A small round of `npm run leaks`, and that its gauge would see a leak. No GPU. Alone: npx vitest run test/package/leaks.test.ts

import { spawnSync } from "node:child_process";
import { openSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";
import { Device } from "../../lib/tensor.ts";
import type { Tensor } from "../../lib/tensor.ts";
import { Gauge, growth } from "../support/leaks.ts";
import type { Held } from "../support/leaks.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));

it.skipIf(process.platform !== "linux")(
  "training, adapters, models and aborted runs leave nothing behind",
  () => {
    const counts = ["--steps", "120", "--adapters", "48", "--models", "48", "--aborted", "24"];
    const { status, stdout, stderr } = spawnSync(process.execPath, ["--import", "tsx", "scripts/leaks.ts", ...counts], {
      cwd: root,
      encoding: "utf8",
      timeout: 220_000,
    });
    expect({ status, grows: stdout.split("\n").filter((line) => line.includes("GROWS")), stderr }).toEqual({
      status: 0,
      grows: [],
      stderr: "",
    });
    expect(stdout.match(/^ {2}flat /gm)).toHaveLength(4 * 5);
  },
  120_000,
);

it("a line through noise that stays is flat, one that rises is not", () => {
  const held = (i: number, rise: number): Held => {
    const noise = (i * 7919) % 5;
    return { rss: 1e8 + noise * 1e5 + i * rise, heap: 1e7 + noise * 1e3, accounted: 5e6, handles: 20 + (i > 30 ? 1 : 0), threads: 9 };
  };
  const samples = (rise: number): Held[] => Array.from({ length: 40 }, (_, i) => held(i, rise));
  const steady = growth(samples(0));
  expect(steady.rss.flat && steady.heap.flat && steady.accounted.flat && steady.threads.flat).toBe(true);
  expect(steady.handles.flat, "one handle more, late").toBe(false);
  const rising = growth(samples(1 << 20));
  expect(rising.rss.flat).toBe(false);
  expect(rising.rss.rise / 2 ** 20).toBeCloseTo(27, 0); // of 40 samples 12 are warm-up
  // A file that is open while it is looked at is no leak.
  expect(growth(samples(0).map((s, i) => ({ ...s, handles: i % 9 === 4 ? 24 : 20 }))).handles.flat).toBe(true);
  // Nor is the copy that a save holds at the last look.
  expect(growth(samples(0).map((s, i) => ({ ...s, accounted: i > 37 ? 6e6 : 5e6 }))).accounted.flat).toBe(true);
  // What a first run leaves in caches is warm-up.
  expect(growth(samples(0).map((s, i) => ({ ...s, threads: i < 12 ? 2 : 9 }))).threads.flat).toBe(true);
});

it.skipIf(process.platform !== "linux")("sees memory, handles and threads that stay", async () => {
  const devices: Device[] = [];
  const tensors: Tensor[] = [];
  const gauge = new Gauge(24);
  for (let i = 0; i < 24; i++) {
    devices.push(new Device({ threads: 1 }));
    tensors.push(devices.at(-1)!.empty("u8", [1 << 20]));
    openSync("/dev/null", "r");
    await gauge.again();
  }
  const seen = growth(gauge.samples);
  expect(seen.threads.rise).toBeGreaterThanOrEqual(10); // of 17 looks the last third begins 12 after the first
  expect(seen.handles.rise).toBeGreaterThanOrEqual(10);
  expect(seen.accounted.rise / 2 ** 20).toBeCloseTo(12, 0);
  for (const t of tensors) t.dispose();
  for (const d of devices) d.dispose();
});
