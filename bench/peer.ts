// The PyTorch peer (bench/peer_torch.py --serve): runs slices of rounds on request, so that both sides alternate in the same minutes.

import { LineProcess } from "./line_process.ts";

interface Contender {
  readonly id: string;
  readonly slow?: boolean;
}

export class Peer {
  private readonly process: LineProcess;
  private readonly contenders: Contender[] = [];
  readonly version: string;

  static async start(python: string, threads: number): Promise<Peer> {
    const process = new LineProcess(python, ["bench/peer_torch.py", "--serve", "--threads", String(threads)]);
    const ready = JSON.parse(await process.read()) as { torch: string };
    const peer = new Peer(process, ready.torch);
    peer.contenders.push(...(JSON.parse(await process.ask("list")) as { list: Contender[] }).list);
    return peer;
  }
  private constructor(process: LineProcess, version: string) {
    this.process = process;
    this.version = version;
  }

  /** Contenders of a case, e.g. "layer/d256/f32/esft". */
  variants(prefix: string): string[] {
    return this.contenders.filter((c) => c.id.startsWith(`${prefix}/`) && !c.slow).map((c) => c.id);
  }

  /** Milliseconds per call, one per round; null when the contender failed. */
  async run(id: string, rounds: number): Promise<number[] | null> {
    const answer = JSON.parse(await this.process.ask(`run ${id} ${rounds}`)) as { ms?: number[]; error?: { message: string } };
    return answer.ms ?? null;
  }
  async drop(): Promise<void> {
    await this.process.ask("drop");
  }
  stop(): void {
    this.process.stop();
  }
}
