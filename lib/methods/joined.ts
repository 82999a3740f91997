// What a method attaches beside what a choice beside it does (a mode of the routers, condensers), as one.

import type { Attachments } from "../model/layers/attachment.ts";

/** Several attachments as one; no two of them have something at the same place. */
export function joined(parts: readonly (Attachments | null)[]): Attachments | null {
  const all = parts.filter((part) => part !== null);
  const [only] = all;
  if (only === undefined || all.length === 1) return only ?? null;
  const first = <T>(of: (part: Attachments) => T | null | undefined): T | null => {
    for (const part of all) {
      const found = of(part);
      if (found) return found;
    }
    return null;
  };
  const weight = (of: "base" | "added"): number => all.reduce((sum, { balance }) => sum + (balance?.[of] ?? 0), 0);
  // Every seam, or this does not compile.
  const whole: { readonly [K in keyof Required<Attachments>]: Exclude<Attachments[K], undefined> } = {
    parameters: all.flatMap((part) => part.parameters),
    balance: { base: weight("base"), added: weight("added") },
    dropsOut: all.some((part) => part.dropsOut),
    straightThrough: all.some((part) => part.straightThrough),
    head: (weight, context) => first((part) => part.head?.(weight, context)),
    linear: (target, context) => first((part) => part.linear?.(target, context)),
    lowestLayer: Math.min(...all.map((part) => part.lowestLayer ?? Number.POSITIVE_INFINITY)),
    selectionBias: (layer, context) => first((part) => part.selectionBias?.(layer, context)),
    experts: (site, context) => first((part) => part.experts?.(site, context)),
    moe: (site, context) => first((part) => part.moe?.(site, context)),
  };
  return whole;
}
