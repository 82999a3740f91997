// Learning rates of a comparison: what each method's runs came to at each rate, and which rate was chosen.

import type { Comparison } from "../compare/result.ts";
import { MOST_SERIES } from "./charts/chart.ts";
import { lines } from "./charts/lines.ts";
import { withSd } from "./content.ts";
import type { Column, Figure, Row } from "./content.ts";

/** A figure per task. */
export function ratesFigures({ choices, rule, tasks, methods }: Comparison["result"]): Figure[] {
  return tasks.flatMap(({ name: task }, i): Figure[] => {
    const own = choices.filter((c) => c.task === task);
    const rows = own.flatMap(({ method, lr, candidates }) =>
      candidates.map((c): Row => ({
        method,
        lr: c.lr,
        loss: c.validationLoss?.mean ?? null,
        sd: c.validationLoss?.sd ?? null,
        n: c.validationLoss?.n ?? null,
        chosen: c.lr === lr ? "chosen" : c.validationLoss === null ? "diverged" : "",
      })),
    );
    if (rows.length === 0) return [];
    const names = methods.map((m) => m.name).filter((name) => own.some((c) => c.method === name)).slice(0, MOST_SERIES); // prettier-ignore
    const values = rows
      .filter((r) => names.includes(String(r["method"])))
      .map((r) => ({ lr: r["lr"]!, loss: r["loss"]!, series: r["method"]!, ring: r["chosen"] === "chosen" ? 1 : 0 }))
      .sort((a, b) => Number(a.lr) - Number(b.lr));
    const columns: Column[] = [
      { key: "method", label: "method" },
      { key: "lr", label: "learning rate", significant: 4 },
      ...withSd({ key: "loss", label: "validation loss", digits: 4 }, "sd"),
      { key: "n", label: "seeds", digits: 0 },
      { key: "chosen", label: "" },
    ];
    return [
      {
        id: `rates-${i + 1}`,
        title: tasks.length === 1 ? "Validation loss by learning rate" : `Validation loss by learning rate: ${task}`,
        about: `Mean over the seeds. Rings mark what was chosen: ${rule}.`,
        chart: values.some((v) => v.loss !== null)
          ? lines(values, {
              x: { key: "lr", title: "learning rate", log: true, labels: "small" },
              y: { key: "loss", title: "nats per token" },
              names,
              dots: names,
              ring: "ring",
            })
          : null,
        table: { columns, rows },
        ...(own.length > names.length
          ? { note: `The chart shows the first ${MOST_SERIES} of ${own.length} methods; the table has all.` }
          : {}),
      },
    ];
  });
}
