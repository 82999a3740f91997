// The committed method fixtures (LoRA beside attention, every dense linear layer, routed experts; PERFT) against the numbers of PEFT and of PERFT's code, on the CPU
// device with 1 and 2 threads and on the reference device. Alone: npx vitest run test/golden/methods.test.ts

import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { checkMethod } from "./methods.ts";
import { Device } from "./model.ts";

const root = "test/fixtures/methods";
const names = readdirSync(root).filter((name) => existsSync(join(root, name, "adapter.safetensors")));

describe.each([
  { kind: "cpu" as const, threads: 1 },
  { kind: "cpu" as const, threads: 2 },
  { kind: "ref" as const, threads: 1 },
])("methods on $kind with $threads threads", (options) => {
  let device: Device;
  beforeAll(() => {
    device = new Device(options);
  });
  afterAll(() => device.dispose());
  it.each(names)("%s", async (name) => {
    const { outcome, failures, checks } = await checkMethod(device, join(root, name));
    expect({ outcome, failures }).toEqual({ outcome: "pass", failures: [] });
    expect(checks.length).toBeGreaterThan(12);
  });
});
