// A run over cases of a GPU.
//
// Each case has the device for itself. Per case: two runs whose bits are compared, the ceilings (cuBLAS and a copy, through the peer),
// a trial of every PyTorch variant, then blocks in which our slices alternate with the two fastest of them. The JSON file is written
// after every case, so a run that is cut short leaves what it has.

import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { Device } from "../../lib/tensor.ts";
import type { DeviceKind } from "../../lib/tensor.ts";
import { checkBits } from "../cases/bits.ts";
import { Buffers } from "../cases/buffers.ts";
import type { BenchCase, Work } from "../cases/case.ts";
import { peerCases } from "../cases/index.ts";
import { findCudaPython, Peer } from "../peer/peer.ts";
import type { PeerRow } from "../peer/peer.ts";
import { median } from "../statistics.ts";
import { eagerRunner, graphRunner, setsFor, slicesFor, timesOf } from "./measure.ts";
import type { Runner } from "./measure.ts";
import { line, noMeasurement } from "./report.ts";
import type { GpuReport, GpuRow, PeerResult } from "./row.ts";

export interface GpuOptions {
  readonly device: DeviceKind;
  readonly cases: readonly BenchCase[];
  /** Python of the peer; null = looked for. */
  readonly peer: string | null;
  readonly variants: RegExp;
  /** Which cases PyTorch runs too. */
  readonly peers: "headline" | "all" | "none";
  /** Time for our slices of a case; a quarter of it in the sweep. */
  readonly seconds: number;
  readonly json: string | null;
  readonly markdown: string | null;
  /** Sizes that run everywhere and measure nothing (with the emulation; PyTorch then runs on the CPU). */
  readonly tiny: boolean;
}

const BLOCKS = 5;
const POOL = 1 << 22;

export class Session {
  private readonly options: GpuOptions;
  private readonly peer: Peer | null;
  private readonly machine: Device["info"];
  private readonly rows: GpuRow[] = [];
  private readonly failures: Record<string, string> = {};
  private readonly date = new Date().toISOString();
  private readonly gpu: string[] = [];
  private readonly no: string | null;

  static async start(options: GpuOptions): Promise<Session> {
    using probe = new Device({ kind: options.device });
    const { info } = probe;
    let peer: Peer | null = null;
    if (options.peers !== "none") {
      const python = options.tiny
        ? options.peer
        : (options.peer ?? findCudaPython([process.env["PYTHON"], "python3", "/opt/peer/bin/python"]));
      const both = options.cases.filter((c) => c.headline || options.peers === "all");
      const cases = peerCases("cuda", options.tiny, both);
      if (python) peer = await Peer.start(python, { device: "cuda", tiny: options.tiny, cases, threads: 1 });
    }
    return new Session(options, peer, info);
  }

  private constructor(options: GpuOptions, peer: Peer | null, machine: Device["info"]) {
    this.options = options;
    this.peer = peer;
    this.machine = machine;
    this.gpu.push(...nvidiaSmi());
    const torch = peer ? `torch ${peer.version}` : "no torch: cuBLAS and PyTorch columns stay empty";
    console.log(`${machine.name}, ${machine.instructionSet}, ${(machine.memoryBytes / 2 ** 30).toFixed(0)} GiB, ${torch}`);
    this.no = noMeasurement({ machine, tiny: options.tiny });
    if (this.no !== null) console.log(this.no);
    for (const text of this.gpu) console.log(text);
  }

  close(): void {
    this.peer?.stop();
  }

  report(): GpuReport {
    const copy = this.rows.find((r) => r.id.startsWith("copy/"));
    return {
      machine: this.machine,
      tiny: this.options.tiny,
      gpu: this.gpu.length > 0 ? [...this.gpu, ...nvidiaSmi()] : [],
      peer: this.peer?.meta ?? null,
      commit: commit(),
      command: `npm run bench -- ${process.argv.slice(2).join(" ")}`,
      date: this.date,
      ownCopy: copy?.bytes ? copy.bytes / copy.ms / 1e9 : null,
      rows: this.rows,
      failures: this.failures,
    };
  }

  /** @returns null when the case failed: `report().failures` says why */
  async add(c: BenchCase): Promise<GpuRow | null> {
    let row: GpuRow | null = null;
    try {
      row = await this.measure(c);
      this.rows.push(row);
      console.log(line(row, this.no));
    } catch (error) {
      this.failures[c.id] = error instanceof Error ? error.message : String(error);
      console.log(`${c.id.padEnd(52)} failed: ${this.failures[c.id]}`);
    }
    if (this.options.json) writeFileSync(this.options.json, `${JSON.stringify(this.report(), null, 1)}\n`);
    return row;
  }

  private async measure(c: BenchCase): Promise<GpuRow> {
    const withPeer = this.peer !== null && (c.headline || this.options.peers === "all");
    const ceilings = await this.ceilings(c.alone ?? false);
    // Of what cannot share the GPU, PyTorch has the first and the last turn.
    const trial = withPeer ? await this.trial(c) : { best: [], others: {} };
    if (c.alone) await this.peer?.drop();
    const own = await this.own(c, c.alone ? [] : trial.best);
    const contenders = own.contenders.length > 0 ? own.contenders : trial.best;
    if (c.alone && contenders[0]) {
      await this.take(contenders[0], 3);
      contenders[0].ratios.push(median(contenders[0].ms) / own.ms);
    }
    if (withPeer) await this.peer!.drop();
    const fastest = contenders.toSorted((a, b) => median(a.ms) - median(b.ms))[0];
    const { contenders: _contenders, ...rest } = own;
    return {
      id: c.id,
      headline: c.headline,
      ...rest,
      ...ceilings,
      peer: fastest ? resultOf(fastest) : null,
      speedup: fastest ? median(fastest.ratios) : null,
      others: trial.others,
    };
  }

  /** cuBLAS and torch's copy; they stay set up in the peer. */
  private async ceilings(alone: boolean): Promise<{ cublas: number | null; copy: number | null }> {
    if (!this.peer || alone) return { cublas: this.rows.at(-1)?.cublas ?? null, copy: this.rows.at(-1)?.copy ?? null };
    const one = async (prefix: string, work: (row: PeerRow & { flops: number }) => number | undefined): Promise<number | null> => {
      const id = this.peer!.variants(prefix)[0];
      const row = id ? await this.peer!.row(id, 10) : null;
      return row && "ms" in row ? (work(row as PeerRow & { flops: number }) ?? 0) / median(row.ms) / 1e9 : null;
    };
    return { cublas: await one("ceiling/gemm/bf16/8192", (r) => r.flops), copy: await one("ceiling/copy/bf16/1GiB", (r) => r.bytes) };
  }

  /** A few rounds of every variant; the two fastest go on, the others have shown that they are slower. */
  private async trial(c: BenchCase): Promise<{ best: Contender[]; others: Record<string, number | string> }> {
    const others: Record<string, number | string> = {};
    const ready: Contender[] = [];
    for (const id of this.peer!.variants(c.id).filter((v) => this.options.variants.test(v))) {
      const row = await this.peer!.row(id, 3);
      if (c.alone) await this.peer!.drop();
      if ("ms" in row && row.other) others[id] = median(row.ms);
      else if ("ms" in row) ready.push({ id, ms: [...row.ms], ratios: [], row });
      else if ("error" in row) others[id] = `${row.error.type}: ${row.error.message.split("\n")[0]}`;
    }
    ready.sort((a, b) => median(a.ms) - median(b.ms));
    for (const slow of ready.slice(c.alone ? 1 : 2)) others[slow.id] = median(slow.ms);
    return { best: ready.slice(0, c.alone ? 1 : 2), others };
  }

  private async take(contender: Contender, rounds: number): Promise<number> {
    const row = await this.peer!.row(contender.id, rounds);
    if (!("ms" in row)) throw new Error(`${contender.id}: ${row.error.message}`);
    contender.ms.push(...row.ms);
    return median(row.ms);
  }

  private async own(c: BenchCase, contenders: Contender[]) {
    const { options } = this;
    await using device = new Device({ kind: options.device });
    const cost = c.cost();
    const buffers: Buffers[] = [];
    const sets: Work[] = [];
    const add = async (): Promise<void> => {
      const b = new Buffers(device, options.tiny ? 1 << 14 : POOL);
      buffers.push(b);
      sets.push(await c.setup(b));
      await device.synchronize();
    };
    try {
      await add();
      const work = sets[0]!;
      const free = device.memoryFree();
      work.restore?.();
      work.before?.();
      work.run();
      await device.synchronize();
      const extraBytes = Math.max(0, free - device.memoryFree());
      const bits = await checkBits(device, work);
      const setBytes = buffers[0]!.bytes;
      while (sets.length < (c.alone ? 1 : setsFor(options.tiny ? CACHED : setBytes))) await add();

      const eager = await eagerRunner(device, sets);
      let graphError: string | null = null;
      const recorded = await graphRunner(device, sets).catch((error: unknown) => {
        graphError = String(error);
        return null;
      });
      const main = recorded?.runner ?? eager;
      const seconds = c.headline ? options.seconds : options.seconds / 4;
      const ms: number[] = [];
      const eagerMs: number[] = [];
      const first = await main.slice();
      const perBlock = Math.ceil(slicesFor(first, main.calls, seconds) / BLOCKS);
      for (let block = 0; block < BLOCKS; block++) {
        const mine = await slices(main, perBlock);
        ms.push(...mine);
        if (recorded) eagerMs.push(...(await slices(eager, 1)));
        for (const other of contenders) {
          const rounds = Math.max(2, Math.min(20, Math.round((seconds * 1000) / BLOCKS / median(other.ms))));
          other.ratios.push((await this.take(other, rounds)) / median(mine));
        }
      }
      const measured = timesOf(ms, main.calls);
      recorded?.graph.dispose();
      return {
        ms: measured.median,
        times: measured,
        how: recorded ? ("graph" as const) : ("eager" as const),
        eager: recorded ? timesOf(eagerMs, eager.calls) : measured,
        sets: sets.length,
        setBytes,
        extraBytes,
        flops: cost.flops ?? null,
        bytes: cost.bytes ?? null,
        tokensPerSecond: cost.tokens ? (cost.tokens / measured.median) * 1000 : null,
        facts: work.facts ?? {},
        bitIdentical: bits.identical,
        graphError: graphError as string | null,
        finite: bits.finite,
        bitsCompared: bits.share,
        contenders,
      };
    } finally {
      await device.synchronize().catch(() => undefined);
      for (const work of sets) await work.dispose?.();
      for (const b of buffers) b.dispose();
    }
  }
}

/** Bytes of a set that asks for the least number of sets. */
const CACHED = 1e9;

interface Contender {
  readonly id: string;
  readonly ms: number[];
  /** Its time over ours, one per block. */
  readonly ratios: number[];
  readonly row: PeerRow;
}

function resultOf({ id, ms, row }: Contender): PeerResult {
  return { id, ms: median(ms), eagerMs: row.eager_ms ?? null, bytes: row.bytes ?? null, extraBytes: row.extra_bytes ?? null };
}

async function slices(runner: Runner, n: number): Promise<number[]> {
  const out: number[] = [];
  for (let i = 0; i < n; i++) out.push(await runner.slice());
  return out;
}

/** Name, driver, clocks and power now; empty without nvidia-smi. */
function nvidiaSmi(): string[] {
  const fields = "name,driver_version,clocks.sm,clocks.mem,power.draw,temperature.gpu";
  const { status, stdout } = spawnSync("nvidia-smi", [`--query-gpu=${fields}`, "--format=csv,noheader"], { encoding: "utf8" });
  return status === 0 ? stdout.trim().split("\n") : [];
}

function commit(): string {
  const { status, stdout } = spawnSync("git", ["describe", "--always", "--dirty", "--abbrev=12"], { encoding: "utf8" });
  if (status === 0) return stdout.trim();
  try {
    return readFileSync("VERSION", "utf8").trim(); // of a folder made by pack:gpu
  } catch {
    return "unknown";
  }
}
