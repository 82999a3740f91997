// Of a run with a guard against forgetting: how far the loss on rows that it does not train on has risen.

import { lines } from "./charts/lines.ts";
import type { Figure, Row } from "./content.ts";
import { STEP } from "./run_steps.ts";

interface Looked {
  readonly step: number;
  readonly files: readonly { readonly name: string; readonly loss: number | null; readonly rise: number | null }[];
}

/** One figure, a line for each of the named files; none without a look. */
export function guardFigure(looks: readonly Looked[]): Figure[] {
  if (looks.length === 0) return [];
  const rows = looks.flatMap(({ step, files }) => files.map(({ name, loss, rise }): Row => ({ step, name, loss, rise })));
  const names = [...new Set(rows.map((r) => String(r["name"])))];
  const values = rows.map(({ step = null, rise = null, name = null }) => ({ step, rise, series: name }));
  const x = { key: "step", title: "step" };
  const gaps = rows.filter((r) => r["rise"] === null).length;
  return [
    {
      id: "guard",
      title: "Loss on other rows",
      about: "How far the mean negative log-likelihood of a supervised token has risen since before the first update, in nats.",
      chart:
        gaps === rows.length ? null : lines(values, { x, y: { key: "rise", title: "rise, nats per token" }, names, dots: names, rule: 0 }),
      table: {
        columns: [
          STEP,
          { key: "name", label: "rows" },
          { key: "loss", label: "loss", digits: 4 },
          { key: "rise", label: "rise", digits: 4 },
        ],
        rows,
      },
      ...(gaps === 0 ? {} : { note: `${gaps} of ${rows.length} values were not finite: the lines have gaps there.` }),
    },
  ];
}
