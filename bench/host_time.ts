// What a step costs the thread of JavaScript: to check ops and queue them, not to run them.
//
//   npx tsx bench/host_time.ts [--rounds N] [ROOT…]
//
// A ROOT is a clone with its addon built; default: this one. Several take turns in this one process, so that a busy machine troubles
// all alike: a change is measured against a worktree of the commit before it. A column is the best and the median of the rounds.
//
//   "busy"  a long op runs meanwhile: the host's own work and nothing else, as ahead of a GPU
//   "free"  the device thread takes what it gets at once: wake-ups and contention are in it

import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import type { Device, TensorList } from "../lib/tensor.ts";

/** Calls of one op in a round, and steps in a round. */
const CALLS = 500;
const STEPS = 4;

interface Row {
  readonly name: string;
  readonly unit: "ns/op" | "us/step";
  /** One round; @returns milliseconds per op or step, the wait for the device left out. */
  readonly round: () => Promise<number>;
}

const load = async <T>(root: string, path: string): Promise<T> => (await import(pathToFileURL(join(root, path)).href)) as T;
type Lib = typeof import("../lib/index.ts");

/** Keeps the device thread at work for some 20 ms. */
function occupier({ ops }: Lib, device: Device): () => void {
  const [a, c] = [device.empty("f32", [1024, 1024]), device.empty("f32", [1024, 1024])];
  return () => {
    for (let i = 0; i < 2; i++) ops.gemm(device, "nt", { a, b: a, c, precision: "f32" });
  };
}

/** Ops on tensors of a few elements. */
function opRows(lib: Lib, device: Device): Row[] {
  const { ops } = lib;
  const matrix = () => device.empty("f32", [4, 8]);
  const list = (n: number, rows: number): TensorList => device.list(Array.from({ length: n }, () => device.empty("f32", [rows, 8])));
  const [x, y, z, out] = [matrix(), matrix(), matrix(), matrix()];
  const [weight, rstd, lse, h] = [8, 4, [4, 2], [4, 16]].map((shape) => device.empty("f32", [shape].flat()));
  const [docStart, rows, offsets] = [
    [0, 0, 0, 0],
    [0, 1, 2, 3],
    [0, 2, 4],
  ].map((ids) => device.tensor("i32", [ids.length], ids));
  const [experts, params, grads, m, v] = [list(4, 8), list(2, 4), list(2, 4), list(2, 4), list(2, 4)];
  const b = experts.tensors[0]!;
  const layout = { heads: 2, kvHeads: 2, kDim: 4, kOffset: 0, kStride: 4, vDim: 4, vOffset: 0, vStride: 4, window: 0, scale: 1 };
  const calls: Readonly<Record<string, () => void>> = {
    add: () => ops.add(device, { a: x, b: y, y: z }),
    gemm: () => ops.gemm(device, "nt", { a: x, b, c: z, precision: "f32" }),
    rms_norm: () => ops.rmsNorm(device, { x, weight: weight!, y, rstd: rstd!, eps: 1e-6 }),
    attention: () => ops.attention(device, { q: x, k: y, v: z, docStart: docStart!, out, lse: lse!, layout, precision: "f32" }),
    grouped_gemm_nt: () =>
      ops.groupedGemmNt(device, {
        x,
        rows: rows!,
        w: experts,
        segments: 2,
        offsets: offsets!,
        activation: { kind: "swiglu" },
        h: h!,
        y: z,
        precision: "f32",
      }),
    adamw: () => ops.adamw(device, { params, grads, m, v, maxNorm: 0, lr: 0, beta1: 0.9, beta2: 0.9, eps: 1e-8, weightDecay: 0, step: 1 }),
  };
  const occupy = occupier(lib, device);
  return Object.entries(calls).flatMap(([name, call]) =>
    ["busy", "free"].map((how): Row => ({
      name: `${name} ${how}`,
      unit: "ns/op",
      round: async () => {
        if (how === "busy") occupy();
        const began = performance.now();
        for (let i = 0; i < CALLS; i++) call();
        const took = performance.now() - began;
        await device.synchronize();
        return took / CALLS;
      },
    })),
  );
}

/** A training step of the model that the package ships: 16 tokens, 3 experts of every layer train. */
async function stepRows(root: string, lib: Lib): Promise<Row[]> {
  const { hostBatch } = await load<typeof import("../lib/model/batch.ts")>(root, "lib/model/batch.ts");
  const { AdamW } = await load<typeof import("../lib/train/optimizer.ts")>(root, "lib/train/optimizer.ts");
  const model = await lib.MoeModel.fromPretrained(join(root, "examples/embedded"), { device: "cpu", threads: 1 });
  const { device, params, transformer } = model;
  const ids = Int32Array.from({ length: 16 }, (_, i) => 100 + i);
  const host = hostBatch([{ ids, targets: ids.map((id) => id + 1) }]);
  const keys = params.all().flatMap(({ key }) => (/\bexperts\.[0-2]\./.test(key) ? [key] : []));
  const optimizer = new AdamW(device, params.train(keys), { beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0, clipNorm: 1 });
  const occupy = occupier(lib, device);
  return ["busy", "free"].map((how): Row => ({
    name: `step ${how}`,
    unit: "us/step",
    round: async () => {
      let took = 0;
      for (let i = 0; i < STEPS; i++) {
        if (how === "busy") occupy();
        const began = performance.now();
        transformer.resetLoss();
        transformer.forwardBackward(host, 1 / host.supervised, host.ids.length, {}, false);
        optimizer.step(0);
        took += performance.now() - began;
        await device.synchronize();
      }
      return took / STEPS;
    },
  }));
}

async function rowsOf(root: string): Promise<Row[]> {
  const lib = await load<Lib>(root, "lib/index.ts");
  return [...opRows(lib, new lib.Device({ kind: "cpu", threads: 1 })), ...(await stepRows(root, lib))];
}

const { values, positionals } = parseArgs({ allowPositionals: true, options: { rounds: { type: "string", default: "100" } } });
const rounds = Number(values.rounds);
const roots = (positionals.length > 0 ? positionals : [join(import.meta.dirname, "..")]).map((root) => resolve(root));
const sides = await Promise.all(roots.map(rowsOf));
console.log(" ".repeat(22) + roots.map((root) => root.slice(-24).padStart(26)).join("") + (sides.length > 1 ? "    first / last" : ""));
for (const [i, { name, unit }] of sides[0]!.entries()) {
  const times = sides.map((): number[] => []);
  for (let round = -5; round < rounds; round++)
    for (let k = 0; k < sides.length; k++) {
      const side = round & 1 ? sides.length - 1 - k : k; // the order must not matter
      const ms = await sides[side]![i]!.round();
      if (round >= 0) times[side]!.push(ms * (unit === "ns/op" ? 1e6 : 1e3));
    }
  const found = times.map((t) => t.sort((a, b) => a - b)).map((t) => ({ best: t[0]!, median: t[t.length >> 1]! }));
  const columns = found.map(({ best, median }) => `${best.toFixed(0)}  ${median.toFixed(0)} ${unit}`.padStart(26));
  const [first, last] = [found[0]!, found.at(-1)!];
  const ratio = sides.length > 1 ? `${(first.best / last.best).toFixed(2)}  ${(first.median / last.median).toFixed(2)}`.padStart(16) : "";
  console.log(name.padEnd(22) + columns.join("") + ratio);
}
process.exit(0); // devices and models with it
