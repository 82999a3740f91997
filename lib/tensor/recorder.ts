// Ops that are submitted again and again, as graphs: the first time they go one by one, which brings the working memory and the tables that
// they need; the second time they are recorded; from then on one launch submits them all. Results are the same bits either way.
//
// With ESFT_CUDA_GRAPH=0, or where something in the work cannot be recorded (`refusal` says what), everything goes one by one; so does what
// is worth recording on devices with graphs of their own alone ("device": launches of kernels are what it saves) on other devices.

import { ConfigError, KernelError, MemoryError } from "../errors.ts";
import type { Device, Graph } from "../tensor.ts";

/** Works that were seen once and may come again. */
const REMEMBERED = 64;

interface Entry {
  /** What the work is a function of, compared item by item with Object.is. */
  readonly key: readonly unknown[];
  /** Null: seen once; "refused": tried once, and never again. */
  graph: Graph | "refused" | null;
}

const isSame = (a: readonly unknown[], b: readonly unknown[]): boolean => a.length === b.length && a.every((x, i) => Object.is(x, b[i]));

/** @throws ConfigError ESFT_CUDA_GRAPH is neither 0 nor 1 */
function wanted(): boolean {
  const text = process.env["ESFT_CUDA_GRAPH"] ?? "";
  if (text !== "" && text !== "0" && text !== "1")
    throw new ConfigError(`ESFT_CUDA_GRAPH: expected 1 (passes that come again are recorded) or 0, found ${JSON.stringify(text)}`, {
      where: { key: "ESFT_CUDA_GRAPH" },
    });
  return text !== "0";
}

export class Recorder {
  /** False: whatever is submitted goes one by one. */
  readonly records: boolean;
  /** Graphs that are kept; the one that was not launched for longest goes. */
  readonly most: number;
  /** Why something was not recorded, the last time that happened. */
  refusal: string | null = null;
  private readonly device: Device;
  /** The one used last comes last. */
  private entries: Entry[] = [];

  /** @param worth "device": where the device has graphs of its own; "any": everywhere, to spare the host's work for each op */
  constructor(device: Device, most = 8, worth: "device" | "any" = "device") {
    this.device = device;
    this.most = most;
    this.records = (worth === "any" || device.info.graphs) && wanted();
  }

  /**
   * Submits `work`. Equal keys say that it would submit the same ops on the same memory: whatever else changes must be read on the
   * device. It submits ops and nothing else. Resolves when it is submitted.
   */
  async submit(key: readonly unknown[], work: () => void): Promise<void> {
    if (!this.records) return work();
    const at = this.entries.findIndex((e) => isSame(e.key, key));
    const entry = this.entries[at] ?? { key, graph: null };
    if (at >= 0) this.entries.splice(at, 1);
    this.entries.push(entry);
    this.evict();
    if (at < 0 || entry.graph === "refused") return work();
    if (entry.graph === null) await this.record(entry, work);
    if (entry.graph instanceof Object) entry.graph.launch();
    else work();
  }

  private async record(entry: Entry, work: () => void): Promise<void> {
    try {
      const graph = await this.device.capture(work);
      if (this.entries.includes(entry)) entry.graph = graph;
      else graph.dispose(); // forgotten meanwhile
    } catch (error) {
      const refused = (error instanceof KernelError || error instanceof MemoryError) && error.message.startsWith("capture: ");
      if (!refused) throw error;
      entry.graph = "refused";
      this.refusal = error.message;
    }
    this.evict();
  }

  private evict(): void {
    let graphs = 0;
    const kept = this.entries.toReversed().filter((e, age) => {
      if (!(e.graph instanceof Object)) return age < REMEMBERED;
      if (++graphs <= this.most) return true;
      e.graph.dispose();
      return false;
    });
    this.entries = kept.toReversed();
  }

  /** Forgets everything: what graphs keep of the device's memory is given back. */
  clear(): void {
    for (const { graph } of this.entries) if (graph instanceof Object) graph.dispose();
    this.entries = [];
  }
}
