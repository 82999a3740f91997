// npm run bench on the CPU. Every round runs each contender of a case once, with the machine's ceilings measured between rounds, so
// that all figures of a row belong to the same minutes. Medians; ratios are medians of per-round ratios.

import { writeFileSync } from "node:fs";
import { availableParallelism, loadavg } from "node:os";
import { Device } from "../lib/tensor.ts";
import type { BenchCase } from "./case.ts";
import { layerCases } from "./layer_cases.ts";
import { opCases } from "./op_cases.ts";
import { Oracles } from "./oracle.ts";
import { PeakMeter } from "./peak.ts";
import type { Ceiling } from "./peak.ts";
import { Peer } from "./peer.ts";
import { median, quantile } from "./statistics.ts";
import { stepCases } from "./step_cases.ts";

export interface CpuOptions {
  /** On case ids. */
  readonly filter: RegExp;
  readonly threads: number;
  readonly rounds: number;
  readonly peer: string | null;
  /** Which variants of the peer. */
  readonly variants: RegExp;
  readonly json: string | null;
  readonly list: boolean;
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
  return `${row.id.padEnd(40)} ${row.ms.toFixed(3).padStart(9)} ms  ${rate.padStart(13)}  ${tokens.padStart(13)}  ${share.padStart(14)}  ${against}`;
}

/** The exit code. */
export async function runCpu(options: CpuOptions): Promise<number> {
  const cases = [...opCases(), ...layerCases(), ...stepCases()].filter((c) => options.filter.test(c.id));
  if (options.list || cases.length === 0) {
    console.log(cases.length === 0 ? `no case matches ${String(options.filter)}` : cases.map((c) => c.id).join("\n"));
    return cases.length === 0 ? 1 : 0;
  }
  const { threads, rounds } = options;
  const device = new Device({ kind: "cpu", threads });
  const meter = PeakMeter.start();
  const oracles = cases.some((c) => c.product) ? await Oracles.start() : null;
  const peer = options.peer ? await Peer.start(options.peer, { threads }) : null;
  const load = loadavg()[0]!;
  console.log(
    `${device.info.name}, ${device.info.instructionSet}, ${threads} threads, load ${load.toFixed(1)}${peer ? `, torch ${peer.version}` : ""}`,
  );
  if (load > availableParallelism()) console.log("warning: the machine is busy; figures of this run are not to be quoted");

  /** Calls per round so that a slice lasts long enough for the clock. */
  async function timeSlice(run: () => void | Promise<void>, calls: number): Promise<number> {
    const began = performance.now();
    for (let i = 0; i < calls; i++) await run();
    await device.synchronize();
    return (performance.now() - began) / calls;
  }

  async function measure(c: BenchCase): Promise<Row> {
    const running = await c.setup(device);
    await timeSlice(running.run, 1);
    const calls = Math.max(1, Math.min(200, Math.round(60 / (await timeSlice(running.run, 1)))));
    let contenders: { id: string; ms: number[] }[] = [];
    if (peer) {
      for (const id of peer.variants(c.id).filter((v) => options.variants.test(v))) {
        const ms = await peer.run(id, 3);
        if (ms) contenders.push({ id, ms: [median(ms)] });
      }
      // The two fastest go on; the others have shown that they are slower.
      contenders = contenders
        .sort((a, b) => a.ms[0]! - b.ms[0]!)
        .slice(0, 2)
        .map(({ id }) => ({ id, ms: [] }));
    }
    const own: number[] = [];
    const ceilings: Ceiling[] = [];
    const ratios: Record<string, number[]> = {};
    for (let r = 0; r < rounds; r++) {
      if (meter) ceilings.push(await meter.sample(threads));
      own.push(await timeSlice(running.run, calls));
      if (c.product && oracles)
        for (const name of oracles.names) {
          const other = await oracles.gflops(name, threads, c.product.M, c.product.N, c.product.K, 30);
          if (other !== null) (ratios[name] ??= []).push(c.flops! / own.at(-1)! / 1e6 / other);
        }
      for (const contender of contenders) contender.ms.push(median((await peer!.run(contender.id, 3)) ?? [Number.NaN]));
    }
    running.dispose();
    await peer?.drop();
    const ms = median(own);
    const gflops = c.flops ? c.flops / ms / 1e6 : null;
    const gbs = c.bytes ? c.bytes / ms / 1e6 : null;
    const peakOf = (x: Ceiling): number => (c.flops ? (c.precision === "bf16" ? x.bf16 : x.f32) : x.copy);
    const work = (c.flops ?? c.bytes ?? 0) / 1e6;
    const share = meter && work > 0 ? median(own.map((t, r) => work / t / peakOf(ceilings[r]!))) : null;
    const fastest = contenders.sort((a, b) => median(a.ms) - median(b.ms))[0];
    return {
      id: c.id,
      ms,
      msBest: quantile(own, 0.1),
      gflops,
      gbs,
      tokensPerSecond: c.tokens ? (c.tokens / ms) * 1000 : null,
      share,
      ceiling: meter
        ? { f32: median(ceilings.map((x) => x.f32)), bf16: median(ceilings.map((x) => x.bf16)), copy: median(ceilings.map((x) => x.copy)) }
        : null,
      peer: fastest ? { id: fastest.id, ms: median(fastest.ms), speedup: median(own.map((t, r) => fastest.ms[r]! / t)) } : null,
      oracles: Object.fromEntries(Object.entries(ratios).map(([name, r]) => [name, median(r)])),
      rounds,
    };
  }

  const rows: Row[] = [];
  for (const c of cases) {
    if (c.precision === "bf16" && !device.info.bf16Compute) {
      console.log(`${c.id.padEnd(40)} skipped: no bf16 compute on ${device.info.instructionSet}`);
      continue;
    }
    const row = await measure(c);
    rows.push(row);
    console.log(show(row));
  }
  if (options.json)
    writeFileSync(
      options.json,
      `${JSON.stringify({ machine: device.info, threads, load, torch: peer?.version ?? null, date: new Date().toISOString(), rows }, null, 1)}\n`,
    );
  meter?.stop();
  oracles?.stop();
  peer?.stop();
  device.dispose();
  return 0;
}
