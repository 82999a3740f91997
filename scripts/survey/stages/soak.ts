// Stage "soak": a training run twice and resumed, then the heavy cases in turn until time is over. Whatever has other bits than its first
// call is a race, and memory that shrinks is a leak.

import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { callFromStart, sameBits } from "../../../bench/cases/bits.ts";
import type { Snapshot } from "../../../bench/cases/bits.ts";
import { Buffers } from "../../../bench/cases/buffers.ts";
import type { Work } from "../../../bench/cases/case.ts";
import { Device } from "../../../lib/tensor.ts";
import { open, same, train } from "../../../test/cuda/model.ts";
import { tinyDeepseek, writeTinyModel } from "../../../test/support/tiny_model.ts";
import { Broken } from "../item.ts";
import type { Item, Outcome, StageContext } from "../item.ts";
import { caseNamed } from "./bench.ts";

async function trainTwice(dry: boolean): Promise<Outcome> {
  const dir = await mkdtemp(path.join(tmpdir(), "esft-survey-"));
  try {
    await writeTinyModel(path.join(dir, "model"), tinyDeepseek);
    const steps = dry ? 2 : 60;
    const adapters: Buffer[] = [];
    for (const run of ["a", "b"]) {
      await using model = await open(path.join(dir, "model"));
      await train(model, path.join(dir, run), { steps });
      adapters.push(await readFile(path.join(dir, run, "adapter.safetensors")));
    }
    if (!same(adapters[0]!, adapters[1]!)) throw new Error(`two runs of ${steps} steps gave other adapters`);
    return { text: `two runs of ${steps} steps, the same adapter` };
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

const cases = [
  "layer/dsv2-lite-T8192-lognormal0.7/bf16/bwd-esft",
  "layer/dsv2-lite-T8192-lognormal1.0/bf16/bwd-all",
  "attention/hd192v128-S4096/bf16/bwd",
  "attention/hd192v128-S4096/bf16/fwd",
  "head/d2048-V102400/bf16/train",
];
const LAST_MS = 1500;
const DRY_MS = 4000;

async function soak({ dry, until }: StageContext, progress: (text: string) => void): Promise<Outcome> {
  const end = Math.min(until - LAST_MS, dry ? Date.now() + DRY_MS : Infinity);
  const device = new Device({ kind: "cuda" });
  const works: { readonly id: string; readonly work: Work; first: Snapshot | null }[] = [];
  for (const id of cases)
    works.push({ id, work: await caseNamed(id, dry).setup(new Buffers(device, dry ? 1 << 14 : 1 << 22)), first: null });
  let calls = 0;
  let free = 0;
  const began = performance.now();
  do {
    for (const of of works) {
      const made = await callFromStart(device, of.work);
      if (!made.finite) throw new Broken(`${of.id}: not finite, or not all written, at call ${calls}`);
      of.first ??= made;
      if (!sameBits(of.first, made)) throw new Broken(`${of.id}: other bits at call ${calls} than at its first`);
      calls++;
      if (Date.now() > end) break;
    }
    if (free === 0) free = device.memoryFree();
    progress(`${calls} calls, the same bits`);
  } while (Date.now() < end);
  const lost = free - device.memoryFree();
  if (lost > 64 * 2 ** 20)
    throw new Error(`${calls} calls, the same bits, but ${(lost / 2 ** 20).toFixed(0)} MiB of device memory are gone`);
  const met = works.filter((w) => w.first).length;
  if (calls < 2 * met) throw new Error(`${calls} calls of ${met} cases: too few to compare; give the survey more seconds`);
  return { text: `${calls} calls of ${met} cases in ${((performance.now() - began) / 1000).toFixed(0)} s, the same bits`, data: { calls } };
}

export function items(context: StageContext): Item[] {
  return [
    { name: "training twice", patience: 30, run: () => trainTwice(context.dry) },
    { name: "soak", patience: 15, run: (progress) => soak(context, progress) },
  ];
}
