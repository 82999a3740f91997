// What a submitted op costs: floating-point operations of the products, bytes of everything else.

import { bytesOf } from "../tensor.ts";
import { Shadow, ShadowList } from "./trace.ts";
import type { Call } from "./trace.ts";

export interface Cost {
  readonly flops: number;
  /** Read and written, each operand once. */
  readonly bytes: number;
}

/** Rows of each expert of a layer, of `rows` routed ones. */
export type Loads = (layer: number | null, experts: number, rows: number) => readonly number[];

/** Every expert is met equally often. */
export const evenLoads: Loads = (_, E, rows) =>
  Array.from({ length: E }, (__, e) => Math.floor((rows * (e + 1)) / E) - Math.floor((rows * e) / E));

/** What depends on the rows: documents' lengths, supervised tokens, where experts are met. */
export interface Rows {
  /** Σ over tokens of the keys that they see, without a window. */
  readonly pairs: number;
  readonly supervised: number;
  readonly loads: Loads;
}

const tensor = (call: Call, name: string): Shadow | null => {
  const value = call.values[name];
  return value instanceof Shadow ? value : null;
};
const list = (call: Call, name: string): ShadowList => call.values[name] as ShadowList;
const sum = (xs: Iterable<number>): number => {
  let total = 0;
  for (const x of xs) total += x;
  return total;
};

/** The rows that a grouped product computes, expert by expert, and the experts it is of. */
export function groupedRows(call: Call, loads: Loads): { readonly groups: readonly number[]; readonly rows: readonly number[] } {
  const E = tensor(call, "offsets")!.shape[0]! - 1;
  const N = (tensor(call, "y") ?? tensor(call, "dx") ?? tensor(call, "h") ?? tensor(call, "x_rows") ?? tensor(call, "dy_rows") ?? tensor(call, "dy"))!.shape[0]!; // prettier-ignore
  const lists = [call.values["w"], call.values["dw"]].find((x) => x instanceof ShadowList);
  const all = loads(lists?.layer ?? null, E, N);
  const given = call.values["groups"] as ArrayLike<number> | null | undefined;
  const groups = given && given.length > 0 ? Array.from(given) : Array.from({ length: E }, (_, e) => e);
  return { groups, rows: groups.map((e) => all[e]!) };
}

function flopsOf(call: Call, { pairs, supervised, loads }: Rows): number {
  switch (call.op) {
    case "gemm": {
      const [M = 1, N = 1] = tensor(call, "c")!.shape;
      return 2 * N * Math.max(M * (tensor(call, "a")!.size / M), 0);
    }
    case "grouped_gemm_nt":
    case "grouped_gemm_nn": {
      const { items } = list(call, "w");
      const E = tensor(call, "offsets")!.shape[0]! - 1;
      const terms = call.values["terms"] instanceof ShadowList ? sum(list(call, "terms").items.map((t) => t.size)) / E : 0;
      return 2 * sum(groupedRows(call, loads).rows) * (sum(items.map((t) => t.size)) / E + terms);
    }
    case "grouped_gemm_tn": {
      const { groups, rows } = groupedRows(call, loads);
      const { items } = list(call, "dw");
      return 2 * sum(rows) * (sum(items.map((t) => t.size)) / groups.length);
    }
    case "attention":
    case "attention_backward": {
      const { heads, k_dim, v_dim } = call.values as Record<string, number>;
      const shared = tensor(call, "k_shared")?.shape.at(-1) ?? 0;
      const one = 2 * pairs * heads! * (k_dim! + shared + v_dim!);
      return call.op === "attention" ? one : 2.5 * one;
    }
    case "linear_cross_entropy": {
      const w = tensor(call, "w")!.size + (tensor(call, "b")?.size ?? 0);
      return 2 * supervised * w * (1 + (tensor(call, "dx") ? 1 : 0) + (tensor(call, "dw") ? 1 : 0));
    }
    default:
      return 0;
  }
}

function bytesOfCall(call: Call): number {
  let total = 0;
  for (const value of Object.values(call.values)) {
    if (value instanceof Shadow) total += value.size * bytesOf(value.dtype);
    if (value instanceof ShadowList) for (const t of value.items) total += t.size * bytesOf(t.dtype);
  }
  return total;
}

export function costOf(call: Call, rows: Rows): Cost {
  return { flops: flopsOf(call, rows), bytes: bytesOfCall(call) };
}

const shown = (value: unknown): unknown => {
  if (value instanceof Shadow) return [value.dtype, value.shape, value.ld];
  if (value instanceof ShadowList) {
    const kinds = new Map<string, number>();
    for (const t of value.items) kinds.set(`${t.dtype} ${t.shape.join()}`, (kinds.get(`${t.dtype} ${t.shape.join()}`) ?? 0) + 1);
    return [...kinds];
  }
  return ArrayBuffer.isView(value) || Array.isArray(value) ? (value as ArrayLike<number>).length : (value ?? null);
};

/** Ops with equal keys do the same work, their rows aside. */
export const keyOf = (call: Call): string =>
  JSON.stringify([call.op, Object.entries(call.values).map(([name, v]) => (name === "seed" || name === "factor" ? 0 : shown(v)))]);
