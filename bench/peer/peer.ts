// The PyTorch peer (bench/peer_torch.py --serve): gets the cases as JSON and runs slices of rounds on request, so that both sides
// alternate in the same minutes.

import { spawnSync } from "node:child_process";
import { ConfigError } from "../../lib/errors.ts";
import type { Backend } from "../../test/ops/perf.ts";
import { describe } from "../cases/case.ts";
import type { BenchCase } from "../cases/case.ts";
import { LineProcess } from "../line_process.ts";

interface Contender {
  readonly id: string;
  readonly slow?: boolean;
}

/** What a run of a contender answers. */
export interface PeerRow {
  /** Milliseconds per call, one per round. */
  readonly ms: readonly number[];
  /** Of one call submitted by Python, where `ms` is of a replayed graph. */
  readonly eager_ms?: number;
  /** Bytes that its form of the work must move (an optimizer with another state has others). */
  readonly bytes?: number;
  /** Not the same work (a state of another dtype): listed, never the fastest. */
  readonly other?: boolean;
  /** Device memory that a call takes beyond what it began with. */
  readonly extra_bytes?: number;
  readonly facts?: Readonly<Record<string, number>>;
}
interface PeerFailure {
  readonly error: { readonly type: string; readonly message: string };
}

export interface PeerOptions {
  readonly device: Backend;
  /** On small sizes the contenders of cuda run on torch's CPU. */
  readonly tiny: boolean;
  readonly cases: readonly BenchCase[];
  readonly threads: number;
}

/** The cases as bench/peer_torch.py reads them. */
export function peerDocument({ device, tiny, cases }: Pick<PeerOptions, "device" | "tiny" | "cases">): string {
  return JSON.stringify({ device, tiny, cases: cases.map(describe) });
}

export class Peer {
  private readonly process: LineProcess;
  private readonly contenders: Contender[] = [];
  readonly version: string;
  /** "torch" and "transformers" versions and the device, as the peer says them. */
  readonly meta: Readonly<Record<string, unknown>>;

  static async start(python: string, options: PeerOptions): Promise<Peer> {
    const process = new LineProcess(python, ["bench/peer_torch.py", "--serve", "--cases", "-", "--threads", String(options.threads)]);
    const ready = await process.ask(peerDocument(options)).catch((error: unknown) => {
      throw new ConfigError(
        `the peer did not start: ${error instanceof Error ? error.message : String(error)}; expected a python with torch and transformers, ` +
          `try "${python} bench/peer_torch.py --list"`,
      );
    });
    const peer = new Peer(process, JSON.parse(ready) as Record<string, unknown>);
    peer.contenders.push(...(JSON.parse(await process.ask("list")) as { list: Contender[] }).list);
    return peer;
  }
  private constructor(process: LineProcess, meta: Readonly<Record<string, unknown>>) {
    this.process = process;
    this.version = String(meta["torch"]);
    this.meta = meta;
  }

  /** Contenders of a case, e.g. "layer/d256/f32/esft". */
  variants(prefix: string): string[] {
    return this.contenders.filter((c) => c.id.startsWith(`${prefix}/`) && !c.slow).map((c) => c.id);
  }

  /** Milliseconds per call, one per round; null when the contender failed. */
  async run(id: string, rounds: number): Promise<readonly number[] | null> {
    const answer = await this.row(id, rounds);
    return "ms" in answer ? answer.ms : null;
  }
  /** The whole answer. */
  async row(id: string, rounds: number): Promise<PeerRow | PeerFailure> {
    return JSON.parse(await this.process.ask(`run ${id} ${rounds}`)) as PeerRow | PeerFailure;
  }
  async drop(): Promise<void> {
    await this.process.ask("drop");
  }
  stop(): void {
    this.process.stop();
  }
}

/** The first python that can run the peer on CUDA; null when none can. */
export function findCudaPython(candidates: readonly (string | undefined)[]): string | null {
  const program = "import sys, torch, transformers; sys.exit(0 if torch.cuda.is_available() else 1)";
  return candidates.find((python) => python && spawnSync(python, ["-c", program], { stdio: "ignore" }).status === 0) ?? null;
}
