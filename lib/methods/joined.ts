// What a method attaches beside what a choice beside it does (a mode of the routers, condensers), as one.

import { sliceKey } from "../files/slice.ts";
import { only } from "../model/layers/attachment.ts";
import type { Attachments } from "../model/layers/attachment.ts";

/** Several attachments as one. Asked for a place at which two of them have something, it throws. */
export function joined(parts: readonly (Attachments | null)[]): Attachments | null {
  const all = parts.filter((part) => part !== null);
  const [first] = all;
  if (first === undefined || all.length === 1) return first ?? null;
  const one = <T extends object>(place: string, of: (part: Attachments) => T | null | undefined): T | null =>
    only(
      all.flatMap((part) => of(part) ?? []),
      place,
    );
  const weight = (of: "base" | "added"): number => all.reduce((sum, { balance }) => sum + (balance?.[of] ?? 0), 0);
  // Every seam, or this does not compile.
  const whole: { readonly [K in keyof Required<Attachments>]: Exclude<Attachments[K], undefined> } = {
    parameters: all.flatMap((part) => part.parameters),
    balance: { base: weight("base"), added: weight("added") },
    dropsOut: all.some((part) => part.dropsOut),
    straightThrough: all.some((part) => part.straightThrough),
    rowwise: all.every((part) => part.rowwise),
    head: (weight, context) => one("the head", (part) => part.head?.(weight, context)),
    linear: (target, context) => one(`"${sliceKey(target.weight)}"`, (part) => part.linear?.(target, context)),
    lowestLayer: Math.min(...all.map((part) => part.lowestLayer ?? Number.POSITIVE_INFINITY)),
    selectionBias: (layer, context) => one(`the choice of experts in layer ${layer}`, (part) => part.selectionBias?.(layer, context)),
    experts: (site, context) => one(`the experts of layer ${site.layer}`, (part) => part.experts?.(site, context)),
    moe: (site, context) => one(`the block of layer ${site.layer}`, (part) => part.moe?.(site, context)),
  };
  return whole;
}
