// What a trained tensor of an adapter belongs to, from the naming that all Hugging Face MoE checkpoints share. An adapter is checked
// without the model's description, so names must do.
import type { TensorSlice } from "../files/slice.ts";
import { sliceKey } from "../files/slice.ts";

export type TensorRole =
  | { readonly kind: "expert"; readonly layer: number; readonly expert: number }
  | { readonly kind: "shared" }
  | { readonly kind: "other" };

/** What a slice belongs to, from the naming that all Hugging Face MoE checkpoints share. */
export function roleOf(s: TensorSlice): TensorRole {
  const layer = /(?:^|\.)(?:layers|blocks)\.(\d+)\./.exec(s.name)?.[1];
  const expert = s.index ?? /\.experts\.(\d+)\./.exec(s.name)?.[1];
  if (layer !== undefined && expert !== undefined) return { kind: "expert", layer: Number(layer), expert: Number(expert) };
  return { kind: /shared_(expert|mlp)/.test(s.name) ? "shared" : "other" };
}

/** The same for all experts of a layer: the name with the expert number, and the slice with its index, left out. */
export const partOf = (s: TensorSlice): string =>
  sliceKey({ ...s, name: s.name.replace(/\.experts\.\d+\./, ".experts.*."), ...(s.index === undefined ? {} : { index: -1 }) });
