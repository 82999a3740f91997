// The matrix that gate and up of a routed expert make together, gate above up: as transformers holds it, whatever the checkpoint does.

import { sliceKey } from "../../files/slice.ts";
import type { RoutedExpertWeights } from "../spec.ts";

/** Its key: of a fused checkpoint that of the slice, else a name beside those of gate and up. */
export function gateUpKey(e: RoutedExpertWeights): string {
  if ("gateUp" in e) return sliceKey(e.gateUp);
  const { name, index } = e.gate;
  if (index !== undefined) return sliceKey({ name, index });
  return name.replace(/[^.]+\.weight$/, "gate_up_proj.weight");
}
