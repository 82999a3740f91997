// How fast this machine does what a step does: each kind of op that a trace holds, at the sizes that it has there, timed on the device
// with rows of its own. Where an op would take long, fewer experts, tokens or elements stand for it.

import { native } from "../native.ts";
import { throwIfAborted } from "../task.ts";
import type { HostBatch } from "../model/batch.ts";
import { TensorList } from "../tensor.ts";
import type { Device, Tensor } from "../tensor.ts";
import * as ops from "../ops.ts";
import { costOf, groupedRows, keyOf } from "./cost.ts";
import type { Rows } from "./cost.ts";
import { Shadow, ShadowList } from "./trace.ts";
import type { Call } from "./trace.ts";

/** Seconds per unit of work: per FLOP of a product, per byte of anything else. */
export type Rates = Record<string, number>;

const FLOPS = 4e9; // most of one timed call
const LIST_ELEMENTS = 4 << 20;
const number = new Map(native.ops.map((op, i) => [op.name, i]));
/** What an op is measured by. */
export const workOf = (call: Call, rows: Rows): number => {
  const { flops, bytes } = costOf(call, rows);
  return flops > 0 ? flops : Math.max(1, bytes);
};

/** Fewer experts with as many rows each: what the product costs by FLOP hardly depends on their number. */
function fewer(call: Call, rows: Rows): { readonly call: Call; readonly loads: readonly number[] } {
  const E = (call.values["offsets"] as Shadow).shape[0]! - 1;
  const { groups, rows: of } = groupedRows(call, rows.loads);
  const flops = costOf(call, rows).flops;
  const most = Math.max(2, Math.floor((groups.length * FLOPS) / Math.max(1, flops)));
  if (E === 1 || most >= groups.length) {
    const loads = Array.from({ length: E }, () => 0);
    groups.forEach((e, i) => (loads[e] = of[i]!));
    return { call, loads };
  }
  // Evenly over the experts by their rows, so that big and small ones are among them.
  const order = groups.map((_, i) => i).sort((a, b) => of[b]! - of[a]!);
  const kept = Array.from({ length: most }, (_, i) => order[Math.floor(((i + 0.5) * order.length) / most)]!);
  const loads = kept.map((i) => of[i]!);
  const [before, N] = [groupedN(call), loads.reduce((a, b) => a + b, 0)];
  const values = Object.fromEntries(
    Object.entries(call.values).map(([name, v]) => {
      if (name === "offsets") return [name, new Shadow("i32", [most + 1])];
      if (name === "groups" || name === "term_groups")
        return [name, v && (v as ArrayLike<number>).length > 0 ? Int32Array.from(loads, (_, i) => i) : v];
      if (v instanceof ShadowList) {
        const per =
          v.items.length /
          (name === "dw" ? groups.length : name === "terms" ? Math.max(1, (call.values["term_groups"] as ArrayLike<number>).length) : E);
        return [
          name,
          new ShadowList(
            Array.from({ length: most }, (_, i) =>
              v.items.slice((kept[i]! % Math.floor(v.items.length / per)) * per, ((kept[i]! % Math.floor(v.items.length / per)) + 1) * per),
            ).flat(),
            v.layer,
          ),
        ];
      }
      if (v instanceof Shadow && v.shape[0] === before)
        return [name, new Shadow(v.dtype, [N, ...v.shape.slice(1)], v.shape.length > 1 ? v.ld : undefined)];
      return [name, v];
    }),
  );
  return { call: { op: call.op, values }, loads };
}
const ROWS = ["y", "dx", "h", "x_rows", "dy_rows", "dy", "x", "probs"];
/** Rows of an op that has them by expert. */
function groupedN({ values }: Call): number {
  const of = ROWS.map((name) => values[name]).find((v) => v instanceof Shadow);
  return of?.shape[0] ?? 0;
}

/** Values of an index tensor: those that the op may meet. */
function indices(name: string, shadow: Shadow, call: Call, batch: HostBatch, loads: readonly number[]): Int32Array {
  const n = shadow.size;
  const out = new Int32Array(n);
  const rowsOf = (key: string): number => (call.values[key] instanceof Shadow ? (call.values[key] as Shadow).shape[0]! : 1);
  switch (name) {
    case "offsets": {
      if (loads.length + 1 !== n) return out.map((_, e) => Math.floor((groupedN(call) * e) / (n - 1)));
      loads.forEach((rows, e) => (out[e + 1] = out[e]! + rows));
      return out;
    }
    case "rows":
    case "x_rows":
    case "dy_rows": {
      const T = rowsOf(name === "x_rows" ? "x" : call.op === "grouped_gemm_nn" || name === "dy_rows" ? "dy" : "x");
      let at = 0;
      for (const k of loads) for (let i = 0; i < k && at < n; i++) out[at++] = Math.floor((i * T) / k);
      return out;
    }
    case "pos": {
      const K = shadow.shape[1] ?? 1;
      const T = shadow.shape[0]!;
      return out.map((_, i) => (i % K) * T + Math.floor(i / K));
    }
    case "ids": {
      const table = call.values["table"] ?? call.values["dtable"];
      if (table instanceof Shadow) return batch.ids.slice(0, n);
      const K = shadow.shape[1] ?? 1;
      const of = call.values["dlogits"] ?? call.values["counts"] ?? call.values["offsets"];
      if (!(of instanceof Shadow)) return out; // an output
      const last = of.shape.at(-1)!;
      const E = call.op === "expert_sort" ? last - 1 : last;
      return out.map((_, i) => (Math.floor(i / K) * 7 + (i % K)) % E);
    }
    case "positions":
      return batch.positions.slice(0, n);
    case "doc_start":
      return batch.docStart.slice(0, n);
    case "labels":
      return batch.targets.slice(0, n);
    default:
      return out;
  }
}

/** One call with memory of its own on a device. */
class Replay implements Disposable {
  private readonly device: Device;
  private readonly op: number;
  private readonly values: unknown[] = [];
  private readonly owned: { dispose(): void }[] = [];

  constructor(device: Device, call: Call, batch: HostBatch, loads: readonly number[]) {
    this.device = device;
    this.op = number.get(call.op)!;
    for (const { name } of native.ops[this.op]!.fields) {
      const v = call.values[name];
      if (v instanceof Shadow) this.values.push(this.make(v, v.dtype === "i32" ? indices(name, v, call, batch, loads) : null).handle);
      else if (v instanceof ShadowList) {
        const list = new TensorList(v.items.map((t) => this.make(t, null)));
        this.owned.push(list);
        this.values.push(list.handle);
      } else this.values.push(v);
    }
  }

  private make({ dtype, shape, ld, size }: Shadow, values: Int32Array | null): Tensor {
    const last = shape.at(-1) ?? 1;
    const gaps = shape.length > 1 && ld !== last;
    const base = this.device.empty(dtype, gaps ? [size / last, ld] : shape);
    this.owned.push(base);
    if (values) base.write(values);
    else if (dtype === "f32" || dtype === "bf16") ops.fill(this.device, { x: base, value: 0.01 }); // memory that was never written has no pages
    if (!gaps) return base;
    const view = base.view(0, shape, { ld });
    this.owned.push(view);
    return view;
  }

  submit(): void {
    this.device.submit(this.op, this.values);
  }
  [Symbol.dispose](): void {
    for (const x of this.owned.reverse()) x.dispose();
  }
}

/** Fewer elements of lists that an optimizer goes over. */
function shorter(call: Call): Call {
  const cut = (v: unknown): unknown =>
    v instanceof ShadowList
      ? new ShadowList(
          v.items.map((t) => (t.size > LIST_ELEMENTS ? new Shadow(t.dtype, [LIST_ELEMENTS]) : t)),
          v.layer,
        )
      : v;
  return { op: call.op, values: Object.fromEntries(Object.entries(call.values).map(([k, v]) => [k, cut(v)])) };
}

/** Ops of a pass, and its rows. */
export interface Pass {
  readonly calls: readonly Call[];
  readonly batch: HostBatch;
  readonly rows: Rows;
}

/**
 * Rates of the calls' kinds that `rates` does not hold yet. A timing is the least of several, a stretch of calls each: what else runs
 * on the machine is not in it. @param short the same ops for fewer tokens, which stand for those of `pass`, grouped products aside
 * @returns seconds that it took
 */
export async function calibrate(device: Device, pass: Pass, short: Pass, rates: Rates, signal?: AbortSignal): Promise<number> {
  const began = performance.now();
  for (const [at, full] of pass.calls.entries()) {
    const key = keyOf(full);
    if (rates[key] !== undefined) continue;
    throwIfAborted(signal, "calibrating");
    const grouped = full.op.startsWith("grouped_gemm");
    const { batch, rows } = grouped ? pass : short;
    const call = grouped ? full : short.calls[at]!;
    const { call: small, loads } = grouped ? fewer(call, rows) : { call: shorter(call), loads: [] };
    const own: Rows = grouped ? { ...rows, loads: (_, E) => (E === loads.length ? loads : rows.loads(_, E, groupedN(small))) } : rows;
    using replay = new Replay(device, small, batch, loads);
    await device.synchronize();
    const timed = async (n: number): Promise<number> => {
      const start = performance.now();
      for (let i = 0; i < n; i++) replay.submit();
      await device.synchronize();
      return (performance.now() - start) / 1000 / n;
    };
    const first = await timed(1);
    const n = Math.max(1, Math.min(50, Math.round(0.01 / first)));
    let best = Number.POSITIVE_INFINITY;
    for (let i = 0; i < (first > 0.1 ? 1 : 3); i++) best = Math.min(best, await timed(n));
    rates[key] = Math.min(best, first) / workOf(small, own);
  }
  return (performance.now() - began) / 1000;
}

/** Seconds of calls by their kinds' rates; what was not measured counts nothing. */
export function secondsOf(calls: readonly Call[], rows: Rows, rates: Rates): number {
  return calls.reduce((s, call) => s + (rates[keyOf(call)] ?? 0) * workOf(call, rows), 0);
}
