// A parser with a defect of every kind, each at one case: what the watch must see. No part of `formats`.

import { LayoutError } from "../../../lib/errors.ts";
import type { Format } from "../case.ts";
import { mutateJson } from "../case.ts";
import { toTree } from "../tree.ts";

const held: Uint8Array[] = [];

const DEFECTS: Readonly<Record<number, () => unknown>> = {
  3: () => (undefined as unknown as { x: number }).x, // internal
  5: () => {
    throw new LayoutError("planted.json: expected less", { cause: "x".repeat(9) });
  },
  7: () => process.abort(), // crash
  9: () => {
    for (;;); // hang
  },
  11: () => held.push(new Uint8Array(400 * 2 ** 20).fill(1)), // memory
  13: () => {
    throw new LayoutError("expected a name of the file"); // message
  },
  15: () => "other", // silent
};
let index = 0;

export const planted: Format = {
  name: "planted",
  open: async () => (dice) => {
    const { steps, bytes } = mutateJson(toTree({ a: 1 }), dice);
    index = dice.index;
    return {
      steps,
      same: false,
      files: { "planted.json": bytes },
      file: "planted.json",
      parse: () => DEFECTS[index]?.() ?? "same",
      judge: (x: unknown) => (x === "other" ? "expected same" : null),
    };
  },
};
