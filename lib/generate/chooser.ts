// Logits of a pass, and the tokens chosen from them on the device: what of each sequence's sampling any of them asks for goes along.

import * as ops from "../ops.ts";
import type { Work } from "../model/transformer.ts";
import type { Device, Tensor } from "../tensor.ts";
import type { Likelihood, Sequence } from "./sequence.ts";

export interface Choice extends Likelihood {
  /** −1: the logits are not finite. */
  readonly id: number;
}

/** A choice that is ready to be made: its ops, submitted behind those that make the logits, and what they chose. */
export interface Choosing extends Work {
  readonly read: () => Promise<Choice[]>;
}

/** What the device writes, one behind the other: read at once. */
interface Outputs {
  readonly all: Tensor;
  readonly ids: Tensor;
  readonly logprob: Tensor;
  readonly topIds: Tensor | null;
  readonly topLogprobs: Tensor | null;
}

type Named = "temperature" | "topK" | "topP" | "minP" | "repetitionPenalty";
const dtypes = { temperature: "f32", topK: "i32", topP: "f32", minP: "f32", repetitionPenalty: "f32" } as const;
const off = { topK: 0, topP: 1, minP: 0, repetitionPenalty: 1 } as const;

export class Chooser {
  private readonly device: Device;
  private readonly vocab: number;
  private readonly rows: number;
  private readonly buffers = new Map<string, Tensor>();
  private readonly views = new Map<string, Tensor>();
  private readonly outputs = new Map<string, Outputs>();
  /** What buffers hold that seldom changes. */
  private readonly sent = new Map<string, readonly number[]>();

  /** @param rows most sequences of a pass */
  constructor(device: Device, vocab: number, rows: number) {
    this.device = device;
    this.vocab = vocab;
    this.rows = rows;
  }

  /** The first rows of a buffer that is kept, with `columns` of each; 0 = a vector. */
  private buffer(name: string, dtype: "f32" | "f64" | "i32", rows: number, columns = 0): Tensor {
    const key = `${name} ${columns}`;
    const shape = (n: number): number[] => (columns === 0 ? [n] : [n, columns]);
    let whole = this.buffers.get(key);
    if (!whole || whole.shape[0]! < rows) {
      whole?.dispose();
      for (const [of, view] of this.views) {
        if (!of.startsWith(`${key} `)) continue;
        view.dispose();
        this.views.delete(of);
      }
      this.sent.delete(name);
      this.buffers.set(key, (whole = this.device.empty(dtype, shape(Math.max(rows, this.rows)))));
    }
    const of = `${key} ${rows}`;
    let view = this.views.get(of);
    if (!view) this.views.set(of, (view = whole.view(0, shape(rows))));
    return view;
  }

  /** Room for the logits of so many sequences. */
  logits(rows: number): Tensor {
    return this.buffer("logits", "f32", rows, this.vocab);
  }

  /** The next token of each sequence by the logits of its row: sends what that takes, submits no ops yet. */
  choosing(batch: readonly Sequence[]): Choosing {
    const R = batch.length;
    const top = Math.min(this.vocab, Math.max(0, ...batch.map((s) => s.request.sampling.logprobs)));
    const { all, ...out } = this.out(R, top);
    const args = { logits: this.logits(R), ...this.sampling(batch), ...out };
    return {
      key: Object.values(args),
      submit: () => ops.sample(this.device, args),
      read: async () => {
        const bytes = await all.readBytes();
        const [ids, numbers] = [new Int32Array(bytes), new Float32Array(bytes)];
        const likeliest = (r: number, i: number) => ({ id: ids[2 * R + r * top + i]!, logprob: numbers[(2 + top) * R + r * top + i]! });
        return batch.map(({ request: { sampling } }, r) => ({
          id: ids[r]!,
          logprob: numbers[R + r]!,
          top: top > 0 ? Array.from({ length: sampling.logprobs }, (_, i) => likeliest(r, i)) : [],
        }));
      },
    };
  }

  private out(R: number, top: number): Outputs {
    const key = `${R} ${top}`;
    let out = this.outputs.get(key);
    if (!out) {
      const all = this.device.empty("i32", [2 * R * (1 + top)]);
      out = {
        all,
        ids: all.view(0, [R]),
        logprob: all.view(R, [R], { dtype: "f32" }),
        topIds: top > 0 ? all.view(2 * R, [R, top]) : null,
        topLogprobs: top > 0 ? all.view((2 + top) * R, [R, top], { dtype: "f32" }) : null,
      };
      this.outputs.set(key, out);
    }
    return out;
  }

  /** What any of them asks for, for all rows. */
  private sampling(batch: readonly Sequence[]) {
    const of = (name: Named): Tensor => {
      const values = batch.map((s) => s.request.sampling[name]);
      const tensor = this.buffer(name, dtypes[name], batch.length);
      const sent = this.sent.get(name);
      if (sent?.length !== values.length || sent.some((x, i) => x !== values[i])) tensor.write(values);
      this.sent.set(name, values);
      return tensor;
    };
    const draws = batch.some((s) => s.request.sampling.temperature > 0);
    const wanted = (name: keyof typeof off): Tensor | null => (batch.some((s) => s.request.sampling[name] !== off[name]) ? of(name) : null);
    const drawn = draws
      ? { temperature: of("temperature"), u: this.uniform(batch), topK: wanted("topK"), topP: wanted("topP"), minP: wanted("minP") }
      : {};
    const repetitionPenalty = wanted("repetitionPenalty");
    return { ...drawn, ...(repetitionPenalty ? { repetitionPenalty, ...this.seen(batch) } : {}) };
  }

  private uniform(batch: readonly Sequence[]): Tensor {
    const u = this.buffer("u", "f64", batch.length);
    u.write(Float64Array.from(batch, (s) => s.request.sampling.uniform(s.generated)));
    return u;
  }

  /** The ids of those whose repetitions count. */
  private seen(batch: readonly Sequence[]): { readonly seen: Tensor; readonly seenOffsets: Tensor } {
    const ids = batch.map((s) => (s.request.sampling.repetitionPenalty === 1 ? [] : s.ids));
    const offsets = [0];
    for (const row of ids) offsets.push(offsets.at(-1)! + row.length);
    const total = offsets.at(-1)!;
    const room = 2 ** Math.ceil(Math.log2(Math.max(total, 1024)));
    const seen = this.buffer("seen", "i32", room);
    const all = new Int32Array(room);
    ids.forEach((row, r) => all.set(row, offsets[r]!));
    seen.write(all);
    const seenOffsets = this.buffer("seenOffsets", "i32", batch.length + 1);
    seenOffsets.write(offsets);
    return { seen, seenOffsets };
  }

  [Symbol.dispose](): void {
    for (const t of [...this.views.values(), ...this.buffers.values()]) t.dispose();
    for (const out of this.outputs.values()) for (const t of Object.values(out) as (Tensor | null)[]) t?.dispose();
  }
}
