// Forty streams at once on base and adapters, clients that go away at random: answers are those given alone, and nothing is left over. The
// long version: npm run soak:serve. No GPU. Alone: npx vitest run test/serve/stress.test.ts

import { afterAll, beforeAll, expect, it } from "vitest";
import { hammer } from "./clients.ts";
import { makeAdapters, serveEmbedded } from "./support.ts";
import { scratch } from "../cli/support.ts";
import type { Served } from "./support.ts";

const root = scratch();
let served: Served;
beforeAll(async () => {
  served = await serveEmbedded(await makeAdapters(root));
});
afterAll(() => served.close());

it("many streams with disconnects and switches", async () => {
  const load = { names: ["booking", "other"], streams: 40, ms: 6000, seed: "stress", tokens: 24, leaving: 0.3 };
  const { finished, left, refused, wrong } = await hammer(served, load);
  expect(wrong).toEqual([]);
  expect(served.errors).toEqual([]);
  expect(finished).toBeGreaterThan(20);
  expect(left).toBeGreaterThan(0);
  expect(refused).toBe(0);
}, 120_000);
