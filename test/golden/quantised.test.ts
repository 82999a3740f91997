// The committed fixtures of quantised weights against what their formats' libraries make of them, bit for bit. No GPU. Alone:
// npx vitest run test/golden/quantised.test.ts; all that the formats' libraries wrote: npm run golden -- DIR.

import { readdirSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Device } from "../../lib/tensor.ts";
import { checkQuantised } from "./quantised.ts";

const root = "test/fixtures/quantised";
const names = readdirSync(root).filter((name) => name.endsWith(".safetensors"));

describe.each([
  { kind: "cpu" as const, threads: 1 },
  { kind: "cpu" as const, threads: 2 },
  { kind: "ref" as const, threads: 1 },
])("quantised weights on $kind with $threads threads", (options) => {
  let device: Device;
  beforeAll(() => {
    device = new Device(options);
  });
  afterAll(() => device.dispose());
  it.each(names)("%s", async (name) => {
    const { outcome, failures, compared } = await checkQuantised(device, join(root, name));
    expect({ outcome, failures }).toEqual({ outcome: "pass", failures: [] });
    expect(compared).toBeGreaterThan(5);
  });
});
