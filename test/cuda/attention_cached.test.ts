// attention_cached on the device "cuda" (the emulation, or a GPU: npm run test:gpu), and rows that do not depend on their neighbours.
// Alone: npx vitest run test/cuda/attention_cached.test.ts

import { expect, it } from "vitest";
import { bf16Args } from "../ops/bf16_args.ts";
import { cachedCases } from "../ops/cases/attention_cached.ts";
import { Random, colsOf, i32, list, out, tensor } from "../ops/host.ts";
import type { Args, HostTensor } from "../ops/host.ts";
import { pick, run } from "../ops/support.ts";
import { cudaDevice, describeCudaCases, withCuda } from "./support.ts";

describeCudaCases("attention_cached", cachedCases);

const rowOf = (t: HostTensor, r: number): HostTensor => ({
  ...t,
  shape: [1, colsOf(t)],
  values: Float32Array.from({ length: colsOf(t) }, (_, c) => t.values[r * colsOf(t) + c]!),
});
/** Row r of a call by itself, whose document's caches are those. */
const alone = (a: Args, r: number, caches: readonly [HostTensor, HostTensor]): Args => ({
  ...a,
  q: rowOf(tensor(a, "q"), r),
  k: rowOf(tensor(a, "k"), r),
  v: rowOf(tensor(a, "v"), r),
  doc_start: i32([0]),
  positions: i32([tensor(a, "positions").values[r]!]),
  k_cache: [caches[0]],
  v_cache: [caches[1]],
  out: out([1, colsOf(tensor(a, "out"))], "bf16"),
});

withCuda("a row of attention_cached on cuda", () => {
  const made = (name: string): Args => bf16Args("attention_cached", cachedCases.find((c) => c.name === name)!.args(new Random(name)));

  it("has the same bits beside other sequences", async () => {
    const args = made("several stretches");
    const H = colsOf(tensor(args, "out"));
    const together = pick(await run(cudaDevice()!, "attention_cached", args), "out");
    for (const r of [0, 1]) {
      const caches = [list(args, "k_cache")[r]!, list(args, "v_cache")[r]!] as const;
      const one = pick(await run(cudaDevice()!, "attention_cached", alone(args, r, caches)), "out");
      expect(one).toEqual(together.slice(r * H, (r + 1) * H));
    }
  });

  it.each(["many rows of several stretches", "a prompt in pieces"])("has the same bits beside tokens of its sequence: %s", async (name) => {
    const args = made(name);
    const H = colsOf(tensor(args, "out"));
    const outputs = await run(cudaDevice()!, "attention_cached", args);
    const stored = (of: string): HostTensor => ({ ...list(args, of)[0]!, values: outputs.find((o) => o.name === `${of}[0]`)!.values });
    const together = pick(outputs, "out");
    for (const r of [0, 3, 11]) {
      // Rows behind its own are there already: it may not see them.
      const one = await run(cudaDevice()!, "attention_cached", alone(args, r, [stored("k_cache"), stored("v_cache")]));
      expect(pick(one, "out")).toEqual(together.slice(r * H, (r + 1) * H));
    }
  });
});
