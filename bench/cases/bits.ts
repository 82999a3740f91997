// Whether two runs of a case are bit-identical, and whether it writes all that it should.

import * as ops from "../../lib/ops.ts";
import type { Device, Tensor } from "../../lib/tensor.ts";
import type { Work } from "./case.ts";

const WINDOW = 64 * 2 ** 20; // bytes from the beginning and from the end of a tensor that is longer than both

export interface Snapshot {
  readonly bytes: readonly Uint8Array[];
  readonly finite: boolean;
}

function windowsOf(t: Tensor): Tensor[] {
  const scale = t.bytes / t.size;
  const n = WINDOW / scale;
  if (t.size <= 2 * n) return [t.view(0, [t.size])];
  return [t.view(0, [n]), t.view(t.size - n, [n])];
}

async function snapshot(tensors: readonly Tensor[]): Promise<Snapshot> {
  const bytes: Uint8Array[] = [];
  let finite = true;
  for (const t of tensors)
    for (const view of windowsOf(t)) {
      const data = await view.readBytes();
      view.dispose();
      bytes.push(new Uint8Array(data));
      if (t.dtype === "f32") finite &&= allFinite(new Uint32Array(data), 0x7f800000);
      if (t.dtype === "bf16") finite &&= allFinite(new Uint16Array(data), 0x7f80);
    }
  return { bytes, finite };
}

function allFinite(bits: Uint32Array | Uint16Array, exponent: number): boolean {
  for (const b of bits) if ((b & exponent) === exponent) return false;
  return true;
}

export interface Bits {
  /** Two runs from the same state gave the same bits. */
  readonly identical: boolean;
  /** Every element was written and is finite (outputs are infinite before). */
  readonly finite: boolean;
  /** Share of the output bytes that was compared. */
  readonly share: number;
}

const tensorsOf = (work: Work): Tensor[] => [...work.outputs, ...(work.state ?? [])];

/** What a call leaves when it starts from the case's first state, outputs poisoned before. */
export async function callFromStart(device: Device, work: Work): Promise<Snapshot> {
  for (const x of work.outputs) ops.fill(device, { x, value: x.dtype === "i32" || x.dtype === "i64" ? -1 : Number.POSITIVE_INFINITY });
  work.reset?.();
  work.restore?.();
  work.before?.();
  work.run();
  return snapshot(tensorsOf(work));
}

export const sameBits = (a: Snapshot, b: Snapshot): boolean => a.bytes.every((bytes, i) => Buffer.compare(bytes, b.bytes[i]!) === 0);

/** Runs a case twice from the same state and compares. */
export async function checkBits(device: Device, work: Work): Promise<Bits> {
  const first = await callFromStart(device, work);
  const second = await callFromStart(device, work);
  const total = tensorsOf(work).reduce((n, t) => n + t.bytes, 0);
  return {
    identical: sameBits(first, second),
    finite: first.finite && second.finite,
    share: total === 0 ? 1 : first.bytes.reduce((n, x) => n + x.byteLength, 0) / total,
  };
}
