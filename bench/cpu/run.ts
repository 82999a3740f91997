// npm run bench on the CPU. Every round runs each contender of a case once, with the machine's ceilings measured between rounds, so
// that all figures of a row belong to the same minutes. Medians; ratios are medians of per-round ratios.

import { writeFileSync } from "node:fs";
import { availableParallelism, loadavg } from "node:os";
import { Device } from "../../lib/tensor.ts";
import { checkBits } from "../cases/bits.ts";
import { Buffers } from "../cases/buffers.ts";
import { parts, precisionOf } from "../cases/case.ts";
import type { BenchCase, Work } from "../cases/case.ts";
import { Peer } from "../peer/peer.ts";
import { median, quantile } from "../statistics.ts";
import { Oracles } from "./oracle.ts";
import { PeakMeter } from "./peak.ts";
import type { Ceiling } from "./peak.ts";

export interface CpuOptions {
  readonly cases: readonly BenchCase[];
  readonly threads: number;
  readonly rounds: number;
  readonly peer: string | null;
  /** Which variants of the peer. */
  readonly variants: RegExp;
  readonly json: string | null;
  /** Every case once and its bits compared with a second run: nothing is measured. */
  readonly tiny: boolean;
}

interface Row {
  readonly id: string;
  readonly ms: number;
  readonly msBest: number;
  readonly gflops: number | null;
  readonly gbs: number | null;
  readonly tokensPerSecond: number | null;
  /** Share of the ceiling of the same rounds: multiply-add peak of the dtype, or copy bandwidth. */
  readonly share: number | null;
  readonly ceiling: Ceiling | null;
  readonly peer: { readonly id: string; readonly ms: number; readonly speedup: number } | null;
  /** Our speed over other libraries' on the same product: median of per-round ratios. */
  readonly oracles: Readonly<Record<string, number>>;
  readonly rounds: number;
}

const POOL = 1 << 20; // normal numbers that big tensors are tiled from
const SLICE_MS = 60;

function show(row: Row): string {
  const rate = row.gflops !== null ? `${row.gflops.toFixed(0)} GFLOP/s` : row.gbs !== null ? `${row.gbs.toFixed(1)} GB/s` : "";
  const tokens = row.tokensPerSecond === null ? "" : `${(row.tokensPerSecond / 1000).toFixed(2)}k tok/s`;
  const share = row.share === null ? "" : `${(row.share * 100).toFixed(0)} % of ${row.gflops !== null ? "peak" : "copy"}`;
  const others = Object.entries(row.oracles).map(([name, r]) => `${r.toFixed(2)}× ${name}`);
  const against =
    others.length > 0 && !row.peer
      ? others.join("  ")
      : row.peer
        ? `${row.peer.speedup.toFixed(2)}× ${row.peer.id.split("/").at(-1)} (${row.peer.ms.toFixed(2)} ms)`
        : "";
  return `${row.id.padEnd(46)} ${row.ms.toFixed(3).padStart(9)} ms  ${rate.padStart(13)}  ${tokens.padStart(13)}  ${share.padStart(14)}  ${against}`;
}

/** A case that is set up, and what gives its memory back. */
async function start(c: BenchCase, device: Device, pool: number): Promise<{ work: Work; end: () => Promise<void> }> {
  const buffers = new Buffers(device, pool);
  const work = await c.setup(buffers);
  await device.synchronize();
  const end = async (): Promise<void> => {
    await work.dispose?.();
    buffers.dispose();
  };
  return { work, end };
}

/** The exit code. */
export async function runCpu(options: CpuOptions): Promise<number> {
  const { cases, threads } = options;
  await using device = new Device({ kind: "cpu", threads });
  const served = cases.filter((c) => {
    if (precisionOf(c.id) === "f32" || device.info.bf16Compute) return true;
    console.log(`${c.id.padEnd(46)} skipped: no bf16 compute on ${device.info.instructionSet}`);
    return false;
  });
  return await (options.tiny ? prove(served, device) : new Session(options, device).run(served));
}

/** Every case once, from the same state twice. */
async function prove(cases: readonly BenchCase[], device: Device): Promise<number> {
  let failed = 0;
  for (const c of cases) {
    let wrong: string | null;
    try {
      const { work, end } = await start(c, device, 1 << 14);
      const bits = await checkBits(device, work);
      await end();
      wrong = !bits.identical ? "TWO RUNS DIFFER" : !bits.finite ? "NOT FINITE OR NOT WRITTEN" : null;
    } catch (error) {
      wrong = `failed: ${error instanceof Error ? error.message : String(error)}`;
    }
    if (wrong !== null) failed++;
    console.log(`${c.id.padEnd(46)} ${wrong ?? "tiny sizes: not a measurement"}`);
  }
  return failed > 0 ? 1 : 0;
}

class Session {
  private readonly options: CpuOptions;
  private readonly device: Device;
  private meter: PeakMeter | null = null;
  private oracles: Oracles | null = null;
  private peer: Peer | null = null;

  constructor(options: CpuOptions, device: Device) {
    this.options = options;
    this.device = device;
  }

  async run(cases: readonly BenchCase[]): Promise<number> {
    const { threads, json } = this.options;
    const { info } = this.device;
    try {
      this.meter = PeakMeter.start();
      this.oracles = cases.some(isProduct) ? await Oracles.start() : null;
      if (this.options.peer) this.peer = await Peer.start(this.options.peer, { device: "cpu", tiny: false, cases, threads });
      const load = loadavg()[0]!;
      const torch = this.peer ? `, torch ${this.peer.version}` : "";
      console.log(`${info.name}, ${info.instructionSet}, ${threads} threads, load ${load.toFixed(1)}${torch}`);
      if (load > availableParallelism()) console.log("warning: the machine is busy; figures of this run are not to be quoted");
      const rows: Row[] = [];
      for (const c of cases) {
        const row = await this.measure(c);
        rows.push(row);
        console.log(show(row));
      }
      const report = { machine: info, threads, load, torch: this.peer?.version ?? null, date: new Date().toISOString(), rows };
      if (json) writeFileSync(json, `${JSON.stringify(report, null, 1)}\n`);
      return 0;
    } finally {
      this.meter?.stop();
      this.oracles?.stop();
      this.peer?.stop();
    }
  }

  /** Milliseconds per call. */
  private async slice(work: Work, calls: number): Promise<number> {
    const began = performance.now();
    for (let i = 0; i < calls; i++) {
      work.before?.();
      work.run();
    }
    await this.device.synchronize();
    return (performance.now() - began) / calls;
  }

  /** The two fastest variants of the peer go on; the others have shown that they are slower. */
  private async contenders(c: BenchCase): Promise<{ id: string; ms: number[] }[]> {
    const tried: { id: string; ms: number }[] = [];
    for (const id of this.peer?.variants(c.id).filter((v) => this.options.variants.test(v)) ?? []) {
      const ms = await this.peer!.run(id, 3);
      if (ms) tried.push({ id, ms: median(ms) });
    }
    tried.sort((a, b) => a.ms - b.ms);
    return tried.slice(0, 2).map(({ id }) => ({ id, ms: [] }));
  }

  private async measure(c: BenchCase): Promise<Row> {
    const { meter, oracles, peer } = this;
    const { threads, rounds } = this.options;
    const { flops, bytes, tokens } = c.cost();
    const { work, end } = await start(c, this.device, POOL);
    await this.slice(work, 1);
    // So that a slice lasts long enough for the clock.
    const calls = Math.max(1, Math.min(200, Math.round(SLICE_MS / (await this.slice(work, 1)))));
    const contenders = await this.contenders(c);
    const own: number[] = [];
    const ceilings: Ceiling[] = [];
    const ratios: Record<string, number[]> = {};
    for (let r = 0; r < rounds; r++) {
      if (meter) ceilings.push(await meter.sample(threads));
      const ms = await this.slice(work, calls);
      own.push(ms);
      if (oracles && isProduct(c)) {
        const [M, N, K] = ["M", "N", "K"].map((size) => Number(c.sizes[size])) as [number, number, number];
        for (const name of oracles.names) {
          const other = await oracles.gflops(name, threads, M, N, K, 30);
          if (other !== null) (ratios[name] ??= []).push((flops ?? 0) / ms / 1e6 / other);
        }
      }
      for (const contender of contenders) contender.ms.push(median((await peer!.run(contender.id, 3)) ?? [Number.NaN]));
    }
    await end();
    await peer?.drop();
    const ms = median(own);
    const peakOf = (x: Ceiling): number => (flops ? (precisionOf(c.id) === "bf16" ? x.bf16 : x.f32) : x.copy);
    const done = (flops ?? bytes ?? 0) / 1e6;
    const fastest = contenders.toSorted((a, b) => median(a.ms) - median(b.ms))[0];
    const middle = (pick: (x: Ceiling) => number): number => median(ceilings.map(pick));
    return {
      id: c.id,
      ms,
      msBest: quantile(own, 0.1),
      gflops: flops ? flops / ms / 1e6 : null,
      gbs: bytes && !flops ? bytes / ms / 1e6 : null,
      tokensPerSecond: tokens ? (tokens / ms) * 1000 : null,
      share: meter && done > 0 ? median(own.map((t, r) => done / t / peakOf(ceilings[r]!))) : null,
      ceiling: meter
        ? { f32: middle((x) => x.f32), bf16: middle((x) => x.bf16), copy: middle((x) => x.copy), read: middle((x) => x.read) }
        : null,
      peer: fastest ? { id: fastest.id, ms: median(fastest.ms), speedup: median(own.map((t, r) => fastest.ms[r]! / t)) } : null,
      oracles: Object.fromEntries(Object.entries(ratios).map(([name, r]) => [name, median(r)])),
      rounds,
    };
  }
}

/** An exact y = x·Wᵀ, which oneDNN and OpenBLAS compute too. */
function isProduct(c: BenchCase): boolean {
  const { what, mode } = parts(c.id);
  return what === "gemm" && precisionOf(c.id) === "f32" && !mode.includes("-");
}
