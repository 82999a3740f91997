// Of a run that trains some experts: how far its routing has moved from what they were selected from.

import { lines } from "./charts/lines.ts";
import type { Figure, Row } from "./content.ts";
import { STEP } from "./run_steps.ts";

interface Look {
  readonly step: number;
  readonly since: string;
  readonly tokens: number;
  readonly shift: number;
  readonly chance: number;
  readonly kept?: number | undefined;
}

/** One figure; none without a look. */
export function driftFigure(looks: readonly Look[]): Figure[] {
  const [first] = looks;
  if (!first) return [];
  const names = ["moved", "by chance"];
  const values = looks.flatMap(({ step, shift, chance }) => [
    { step, share: shift, series: "moved" },
    { step, share: chance, series: "by chance" },
  ]);
  return [
    {
      id: "drift",
      title: "Routed slots at other experts",
      about:
        `Share of the routed slots of the training rows that went to other experts than in the ${first.since}, mean over layers; by chance: what ` +
        "sampling alone would move. Kept: the share of the trained experts that the same rule would select again.",
      chart: lines(values, { x: { key: "step", title: "step" }, y: { key: "share", title: "share of slots" }, names, dots: names }),
      table: {
        columns: [
          STEP,
          { key: "tokens", label: "tokens" },
          { key: "shift", label: "moved", digits: 4 },
          { key: "chance", label: "by chance", digits: 4 },
          { key: "kept", label: "kept", digits: 3 },
        ],
        rows: looks.map(({ step, tokens, shift, chance, kept = null }): Row => ({ step, tokens, shift, chance, kept })),
      },
    },
  ];
}
