// Writes results.md, the tables of the miniature and a verdict on each claim of the papers, from what `esft compare` left.
//   npx tsx examples/miniature/results.ts out/mini [--out examples/miniature/results.md]
import { join } from "node:path";
import { writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { Profile, readComparison } from "../../lib/index.ts";
import { CLAIMS } from "./claims.ts";
import { Figures } from "./figures.ts";
import type { Key, Of } from "./figures.ts";
import { overlapTable, sharedExperts } from "./overlap.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { out: { type: "string", default: join(import.meta.dirname, "results.md") } },
});
const [dir = "out/mini"] = positionals;
const all = await readComparison(dir);
const profiles = await Promise.all(all.result.tasks.map(({ name }) => Profile.load(join(dir, "profiles", name, "profile.json"))));
const f = new Figures(all, sharedExperts(profiles));
const { result, times } = all;

const markdown = (header: readonly string[], rows: readonly (readonly string[])[], words = false): string =>
  [header, header.map((_, i) => (i === 0 || words ? "---" : "---:")), ...rows].map((row) => `| ${row.join(" | ")} |`).join("\n");
const signed = (x: number, digits: number): string => `${x < 0 ? "−" : "+"}${Math.abs(x).toFixed(digits)}`;
const shown = ({ mean, sd }: Of, digits: number): string => `${mean.toFixed(digits)}${sd === null ? "" : ` ± ${sd.toFixed(digits)}`}`;

const MAIN = ["full", "lora", "esft-token", "esft-gate", "random-token"].filter((m) => f.cells(m).length > 0);

function scores(key: "exact" | "loss", digits: number): string {
  const { tasks } = f;
  const average = (of: readonly number[]): string => (of.reduce((a, b) => a + b, 0) / of.length).toFixed(digits);
  return markdown(
    ["", ...tasks, "average"],
    [
      ["base", ...tasks.map((t) => f.base(t, key).toFixed(digits)), average(tasks.map((t) => f.base(t, key)))],
      ...MAIN.map((m) => {
        const of = tasks.map((t) => f.of(m, key, [t]).mean);
        return [m, ...of.map((x) => x.toFixed(digits)), average(of)];
      }),
    ],
  );
}

/** Rise of the mean loss on other domains after training on each task. */
const forgetting = (): string =>
  markdown(
    ["", ...f.tasks, "average"],
    MAIN.map((m) => [m, ...f.tasks.map((t) => signed(f.of(m, "others", [t]).mean, 3)), shown(f.of(m, "others"), 3)]),
  );

function variants(names: readonly string[], among: readonly string[]): string {
  const on = f.tasksOf(names.find((m) => f.tasksOf(m).length < f.tasks.length) ?? names[0]!);
  const cell = (m: string, key: Key, digits: number): string => {
    const { mean } = f.of(m, key, on);
    return Number.isNaN(mean) ? "" : mean.toFixed(digits);
  };
  return `${markdown(
    ["", "exact %", "loss", "rise on others", "trained %", ...among],
    names
      .filter((m) => f.cells(m, on).length > 0)
      .map((m) => [
        m,
        cell(m, "exact", 1),
        cell(m, "loss", 3),
        signed(f.of(m, "others", on).mean, 3),
        cell(m, "share", 1),
        ...among.map((key) => cell(m, key as Key, 1)),
      ]),
  )}\n\nOver ${on.length === f.tasks.length ? "all tasks" : on.join(" and ")}.`;
}

const cost = markdown(
  ["", "trained %", "adapter MB", "training state MB", "ms a step", "of full's", "coverage %"],
  MAIN.map((m) => [
    m,
    f.of(m, "share").mean.toFixed(1),
    f.of(m, "adapter").mean.toFixed(2),
    f.of(m, "state").mean.toFixed(1),
    f.of(m, "step").mean.toFixed(0),
    (f.of(m, "step").mean / f.of("full", "step").mean).toFixed(2),
    m === "full" || m === "lora" ? "" : f.of(m, "coverage").mean.toFixed(1),
  ]),
);

const rates = markdown(
  ["task", "method", "rate: validation loss (chosen in bold)"],
  result.choices
    .filter(({ candidates }) => candidates.length > 1)
    .map(({ task, method, lr, candidates }) => [
      task,
      method,
      candidates
        .map((c) => {
          const text = `${c.lr.toExponential()}: ${c.validationLoss === null ? "diverged" : c.validationLoss.mean.toFixed(3)}`;
          return c.lr === lr ? `**${text}**` : text;
        })
        .join(" · "),
    ]),
);

const seconds = Object.values(times.cells).reduce((sum, c) => sum + c.trainSeconds + c.evaluationSeconds, 0);
const { steps, rowsPerStep } = result.plan as { readonly steps: number; readonly rowsPerStep: number };

const verdicts = markdown(
  ["claim", "verdict", "found here", "why"],
  CLAIMS.map(({ source, claim, test, why }) => {
    const { verdict, found } = test(f);
    return [`${claim} (${source})`, `**${verdict}**`, found, why];
  }),
  true,
);

const text = `# The papers in miniature

\`npx esft compare examples/miniature/plan.yaml --out out/mini\`: ${result.cells.length} runs of ${steps} updates of ${rowsPerStep} rows on the embedded model (5.2 M parameters), ${result.seeds.length === 1 ? "seed" : "seeds"} ${result.seeds.join(" and ")}; ${(seconds / 60).toFixed(0)} minutes of training and evaluation on ${times.device.threads} threads (${times.device.instructionSet}, ${result.device.precision}).
Tasks ${f.tasks.slice(0, 3).join(", ")} are harder forms of what pretraining saw (*enhancement*), ${f.tasks.slice(3).join(", ")} new formats over words that it saw (*adaptation*). Scores are answers that are right to the letter, in percent of test questions; losses nats per answer token; the rise on others is that of the mean loss on ${result.others.length} domains of pretraining.
The learning rate of each method and task was chosen by validation rows ([below](#learning-rates)). Written by \`results.ts\` from \`compare.json\`.

## Verdicts

*Not testable here* also stands where the 95 % interval of the difference covers zero: the runs decide nothing, and more seeds may.

${verdicts}

## Table 1: the task, exact answers (%)

${scores("exact", 1)}

Loss:

${scores("loss", 3)}

## Table 2: what is forgotten

${forgetting()}

± is over tasks and seeds. Base: mean loss ${f.baseOthers.toFixed(3)}.

## Storage and time

${cost}

## Table 3: what to train

${variants(["full", "relevant-shared-rest", "relevant-shared", "esft-token", "shared-rest", "shared"], [])}

## Table 4: random experts

${variants(["esft-token", "random-token"], ["coverage"])}

## Figure 6: p

${variants(["p-0.1", "p-0.2", "esft-token", "p-0.6", "p-1", "full"], ["coverage"])}

## Figure 7: granularity

${variants(["esft-token", "tied-2", "tied-4"], ["coverage"])}

## PERFT and LoRA at equal active parameters

${variants(["lora-attention", "perft-r", "perft-e"], [])}

## EPnG and LoRA at equal budgets

${variants(["lora-experts", "epng"], [])}

## Figure 3: experts that tasks share

${overlapTable(f.tasks, f.shared)}

## Learning rates

${rates}
`;
await writeFile(values.out, text);
console.log(`written: ${values.out}`);
