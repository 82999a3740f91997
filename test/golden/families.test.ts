// The committed family fixtures (most with the gradients of one layer only) against the numbers of Hugging Face, on the CPU device with 1 and 2 threads and on the
// reference device. No GPU. Alone: npx vitest run test/golden/families.test.ts

import { readdirSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Device } from "../../lib/tensor.ts";
import { checkFamily } from "./families.ts";

const root = "test/fixtures/families";
const names = readdirSync(root);

describe.each([
  { kind: "cpu" as const, threads: 1 },
  { kind: "cpu" as const, threads: 2 },
  { kind: "ref" as const, threads: 1 },
])("golden numbers on $kind with $threads threads", (options) => {
  let device: Device;
  beforeAll(() => {
    device = new Device(options);
  });
  afterAll(() => device.dispose());
  it.each(names)("%s", async (name) => {
    const { outcome, failures, checks } = await checkFamily(device, join(root, name));
    expect({ outcome, failures }).toEqual({ outcome: "pass", failures: [] });
    expect(checks.length).toBeGreaterThan(12);
  });
});
