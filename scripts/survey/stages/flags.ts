// Stage "flags": the same case with either value of a setting, both set up at once, in slices that alternate.

import { callFromStart, sameBits } from "../../../bench/cases/bits.ts";
import type { Snapshot } from "../../../bench/cases/bits.ts";
import { Buffers } from "../../../bench/cases/buffers.ts";
import type { Work } from "../../../bench/cases/case.ts";
import { eagerRunner, graphRunner, setsFor, slicesFor } from "../../../bench/gpu/measure.ts";
import type { Runner } from "../../../bench/gpu/measure.ts";
import { noMeasurement } from "../../../bench/gpu/report.ts";
import { median } from "../../../bench/statistics.ts";
import { Device } from "../../../lib/tensor.ts";
import { flags } from "../ab.ts";
import type { Compared, Flag } from "../ab.ts";
import type { Item, Outcome, StageContext } from "../item.ts";
import { caseNamed } from "./bench.ts";

const BLOCKS = 8;
const SECONDS = 1.5;

/** Variables are read when a device is opened and hold for it. */
function openWith(name: string, value: string): Device {
  const before = process.env[name];
  process.env[name] = value;
  try {
    return new Device({ kind: "cuda" });
  } finally {
    if (before === undefined) delete process.env[name];
    else process.env[name] = before;
  }
}

class Side {
  readonly device: Device;
  private readonly recorded: boolean;
  private readonly buffers: Buffers[] = [];
  private readonly sets: Work[] = [];

  constructor(flag: Flag, value: string) {
    this.device = openWith(flag.name, value);
    this.recorded = flag.name !== "ESFT_CUDA_GRAPH" || value === "1"; // the trainer's choice (lib/tensor/recorder.ts)
  }

  /** Of the first set, from its first state. */
  bits(): Promise<Snapshot> {
    return callFromStart(this.device, this.sets[0]!);
  }

  async runner(id: string, dry: boolean): Promise<Runner> {
    const c = caseNamed(id, dry);
    const add = async (): Promise<void> => {
      const b = new Buffers(this.device, dry ? 1 << 14 : 1 << 22);
      this.buffers.push(b);
      this.sets.push(await c.setup(b));
      await this.device.synchronize();
    };
    await add();
    while (this.sets.length < (dry ? 1 : setsFor(this.buffers[0]!.bytes))) await add();
    const eager = await eagerRunner(this.device, this.sets); // every op has its working memory
    if (!this.recorded) return eager;
    return (await graphRunner(this.device, this.sets))?.runner ?? eager;
  }

  async dispose(): Promise<void> {
    for (const work of this.sets) await work.dispose?.();
    for (const b of this.buffers) b.dispose();
    this.device.dispose();
  }
}

async function compare(flag: Flag, id: string, dry: boolean): Promise<Outcome> {
  const sides = flag.values.map((value) => new Side(flag, value));
  try {
    const runners: Runner[] = [];
    for (const side of sides) runners.push(await side.runner(id, dry));
    const same = sameBits(await sides[0]!.bits(), await sides[1]!.bits());
    const once = await runners[0]!.slice();
    const perBlock = dry ? 1 : Math.ceil(slicesFor(once, runners[0]!.calls, SECONDS) / BLOCKS);
    const times: [number[], number[]] = [[], []];
    const ratios: number[] = [];
    for (let block = 0; block < (dry ? 1 : BLOCKS); block++) {
      // The order turns, so that whoever runs second has no advantage.
      const order = block % 2 === 0 ? ([0, 1] as const) : ([1, 0] as const);
      const here: [number[], number[]] = [[], []];
      for (const side of order) for (let i = 0; i < perBlock; i++) here[side].push(await runners[side]!.slice());
      ratios.push(median(here[1]) / median(here[0]));
      for (const side of order) times[side].push(...here[side]);
    }
    const ms = [median(times[0]), median(times[1])] as const;
    const ratio = median(ratios);
    const no = noMeasurement({ machine: sides[0]!.device.info, tiny: dry });
    const data: Compared = { flag: flag.name, values: flag.values, case: id, ms, ratio, same: same || flag.otherBits !== undefined, no };
    const [first, second] = flag.values;
    const change = `${second} takes ${((ratio - 1) * 100).toFixed(1)} % ${ratio < 1 ? "less" : "more"} than ${first}`.replace("-", "");
    const bits = same ? "the same bits" : flag.otherBits ? `other bits (${flag.otherBits})` : "OTHER BITS";
    return { text: `${no ?? `${change} (${ms[1].toFixed(3)} and ${ms[0].toFixed(3)} ms)`}, ${bits}`, data };
  } finally {
    for (const side of sides) await side.dispose();
  }
}

export function items({ dry }: StageContext): Item[] {
  return flags.flatMap((flag) =>
    flag.cases.slice(0, dry ? 2 : undefined).map((id, i) => ({
      name: `${flag.name}: ${id}`,
      optional: i >= 5,
      needs: 8,
      patience: 20,
      run: () => compare(flag, id, dry),
    })),
  );
}
