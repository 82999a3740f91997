// The plan of a comparison: which methods, learning rates, seeds and tasks, on which model, and how they are measured. One schema for
// TypeScript and YAML; its short forms are made long before it is parsed.

import { z } from "zod";
import { readSafely } from "../arguments.ts";
import { ConfigError } from "../errors.ts";
import { answersSchema } from "../evaluate_answers.ts";
import { ExpertSet } from "../experts/expert_set.ts";
import { Profile } from "../experts/profile.ts";
import { dataSchema, DEFAULT_STEPS, isPlain, machineSchema, parseOptions, selectSchema, trainSchema } from "../options.ts";
import type { Plain } from "../options.ts";
import { fault, methodSchema } from "../train/method_options.ts";
import { requireRates } from "../train/schedule.ts";

/** The profile of a method that selects on the rows of its task. */
export const TASK_PROFILE = "task";

const file = z.string().min(1, "expected a file");
const name = z
  .string()
  .regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/, "expected a name of letters, digits, dots, hyphens and underscores that can be a folder");
const optimizer = trainSchema.shape.optimizer.unwrap().omit({ lr: true });

const task = dataSchema.extend({
  name,
  /** Rows to train on, to choose the learning rate by, and to report. */
  train: file,
  validation: file,
  test: file,
  /** Questions whose answers are scored (evaluation.answers); default: the test rows. */
  answers: file.optional(),
});

const seeds = z.array(z.int().min(0)).min(1, "expected at least one seed");

const method = z.strictObject({
  name,
  method: methodSchema,
  /** The tasks that it is trained and told on; default: all of the plan. */
  tasks: z.array(z.string()).min(1, "expected at least one task").readonly().optional(),
  /** Learning rates to choose from. */
  lr: z.array(z.number().gt(0)).min(1, "expected at least one learning rate"),
  /** Seeds that it is repeated with; default: those of the plan. */
  seeds: seeds.optional(),
  optimizer: optimizer.prefault({}),
  auxLoss: trainSchema.shape.auxLoss,
  adapterDtype: trainSchema.shape.adapterDtype,
  stages: trainSchema.shape.stages,
});

export const planSchema = z
  .strictObject({
    model: z.string().min(1, "expected a checkpoint directory"),
    // What all have in common comes first: its faults are told once, and not at every task.
    data: trainSchema.shape.data,
    optimizer: optimizer.prefault({}),
    tasks: z.array(task).min(1, "expected at least one task"),
    /** Rows of other domains, which tell what is forgotten. */
    others: z.array(dataSchema.extend({ name, file })).default([]),
    methods: z.array(method).min(1, "expected at least one method"),
    seeds: seeds.default([1]),
    /** Rates are chosen by the runs of the first so many seeds, and with further seeds only the chosen one is run; default: by all. */
    rateSeeds: z.int().min(1).optional(),
    steps: trainSchema.shape.steps.unwrap().default(DEFAULT_STEPS),
    ...trainSchema.pick({ rowsPerStep: true, microBatch: true, evalEvery: true, evalRows: true, saveEvery: true }).shape,
    /** "best": the adapter of the lowest validation loss, taken every `evalEvery` updates. */
    keep: trainSchema.shape.keep.unwrap().default("last"),
    profile: z
      .strictObject({
        tokens: z.int().min(1).default(131_072),
        seed: z.int().min(0).default(1),
        batchTokens: z.int().min(1).default(4096),
        /** Gradient scores too; true where a method selects by them. */
        gradient: z.boolean().optional(),
      })
      .prefault({}),
    evaluation: z
      .strictObject({
        batchTokens: z.int().min(1).default(4096),
        /** Only the first so many rows of each file. */
        rows: z.int().min(1).optional(),
        /** Scores of answers, beside losses. */
        answers: answersSchema
          .omit({ adapter: true, file: true, format: true, shape: true, template: true, onBadRow: true, onDropped: true })
          .optional(),
      })
      .prefault({}),
    ...machineSchema.shape,
  })
  .check((ctx) => checkPlan(ctx));

export type Plan = z.output<typeof planSchema>;
export type PlanTask = Plan["tasks"][number];
export type PlanMethod = Plan["methods"][number];

type Input = z.input<typeof planSchema>;
type Selecting = z.input<typeof selectSchema>;
/** As the schema has it, with one rate in place of a list, a method by its name alone, and the keys of `select` beside a method's own. */
export type PlanInput = Omit<Input, "tasks" | "others" | "methods"> & {
  readonly tasks: readonly Input["tasks"][number][];
  readonly others?: readonly NonNullable<Input["others"]>[number][] | undefined;
  readonly methods: readonly (Omit<Input["methods"][number], "method" | "lr"> & {
    readonly method: Input["methods"][number]["method"] | string | (Selecting & { readonly type?: string });
    readonly lr: number | readonly number[];
  })[];
};

/** @throws ConfigError the first fault, with its key */
export function parsePlan(given: unknown, from = "plan"): Plan {
  const long = isPlain(given) ? readSafely(from, () => complete(given, from)) : given;
  const plan = parseOptions(planSchema, long, from);
  for (const [i, { optimizer: shape, stages }] of plan.methods.entries())
    requireRates({ optimizer: shape, stages, steps: plan.steps }, `${from}.methods.${i}`);
  return plan;
}

/** Names are told apart, budgets are the plan's, and what a method selects by is measured. */
function checkPlan(ctx: z.core.ParsePayload<Plan>): void {
  const { tasks, others, methods, seeds, rateSeeds, steps } = ctx.value;
  for (const [key, list] of Object.entries({ tasks, others, methods })) {
    const names = list.map((item) => item.name.toLowerCase());
    const twice = names.findIndex((n, i) => names.indexOf(n) < i);
    if (twice >= 0) fault(ctx, [key, String(twice), "name"], "expected a name of its own", JSON.stringify(list[twice]!.name));
  }
  unique(ctx, ["seeds"], seeds);
  if (rateSeeds !== undefined && rateSeeds > seeds.length)
    fault(ctx, ["rateSeeds"], `expected at most the number of seeds (${seeds.length})`, `${rateSeeds}`);
  for (const [i, { name: called, method: m, tasks: on, lr, seeds: repeated, stages }] of methods.entries()) {
    const at = ["methods", String(i)];
    if (called === "base") fault(ctx, [...at, "name"], 'expected another name: "base" is the model as it is', '"base"');
    unique(ctx, [...at, "lr"], lr);
    unique(ctx, [...at, "seeds"], repeated ?? []);
    const alien = (repeated ?? []).findIndex((seed) => !seeds.includes(seed));
    if (alien >= 0) fault(ctx, [...at, "seeds", String(alien)], `expected a seed of the plan (${seeds.join(", ")})`, `${repeated![alien]}`);
    unique(ctx, [...at, "tasks"], on ?? []);
    const unknown = (on ?? []).findIndex((task) => !tasks.some((t) => t.name === task));
    if (unknown >= 0) {
      const known = tasks.map((t) => t.name).join(", ");
      fault(ctx, [...at, "tasks", String(unknown)], `expected a task of the plan (${known})`, JSON.stringify(on![unknown]!));
    }
    const sum = stages?.reduce((n, stage) => n + stage.steps, 0) ?? steps;
    if (sum !== steps) fault(ctx, [...at, "stages"], `expected stages of ${steps} steps together, the plan's`, `${sum}`);
    const own = m as { readonly experts?: unknown; readonly profile?: unknown };
    if (own.experts instanceof ExpertSet) fault(ctx, [...at, "method", "experts"], "expected a file, or layer: [ids]", "an ExpertSet");
    if (own.profile instanceof Profile) fault(ctx, [...at, "method", "profile"], "expected a file", "a Profile");
    if (own.profile !== TASK_PROFILE) continue;
    const rules = (["p", "topKPerLayer", "maxTrainableParams", "fixed"] as const).filter(
      (rule) => "select" in m && m.select?.[rule] !== undefined,
    );
    if (rules.length !== 1)
      fault(
        ctx,
        [...at, "method", "select"],
        "expected one of p, topKPerLayer, maxTrainableParams and fixed",
        rules.join(" and ") || "none",
      );
  }
}

function unique(ctx: z.core.ParsePayload<Plan>, path: readonly string[], list: readonly (number | string)[]): void {
  const twice = list.findIndex((x, i) => list.indexOf(x) < i);
  if (twice >= 0) fault(ctx, path, "expected each once", `${list[twice]} twice`);
}

/** Long forms: what tasks and methods do not say themselves is the plan's. */
function complete(plan: Plain, from: string): Plain {
  const { data, optimizer: shared, tasks, others, methods } = plan;
  const each = (list: unknown, longer: (item: Plain, i: number) => Plain): unknown =>
    Array.isArray(list) ? list.map((item: unknown, i) => (isPlain(item) ? longer(item, i) : item)) : list;
  const withData = (item: Plain): Plain => ({ ...(isPlain(data) ? data : {}), ...item });
  return {
    ...plan,
    tasks: each(tasks, withData),
    others: each(others, withData),
    methods: each(methods, (item, i) => longMethod(item, isPlain(shared) ? shared : {}, `${from}.methods.${i}`)),
  };
}

function longMethod(given: Plain, shared: Plain, at: string): Plain {
  const { method: short, lr, optimizer: own } = given;
  const foreign = BUDGET.find((key) => given[key] !== undefined);
  if (foreign !== undefined)
    throw new ConfigError(`${at}.${foreign}: rows, order, tokens and evaluation are the same for all methods: set ${foreign} at the top`, {
      where: { key: `${at.replace(/^[^.]*\./, "")}.${foreign}` },
    });
  return {
    ...given,
    ...(short === undefined ? {} : { method: longSelection(typeof short === "string" ? { type: short } : short, `${at}.method`) }),
    ...(typeof lr === "number" ? { lr: [lr] } : {}),
    ...(own === undefined || isPlain(own) ? { optimizer: { ...withoutLr(shared), ...own } } : {}),
  };
}

/** What a method may not have for itself. */
const BUDGET = ["steps", "rowsPerStep", "microBatch", "seed", "rateSeeds", "data", "evalEvery", "evalRows", "keep", "evaluation"];
/** A rate beside the plan's other options of the optimizer is refused there, once. */
const withoutLr = ({ lr: _, ...rest }: Plain): Plain => rest;

/** `{type: esft, p: 0.2}` as `{type: esft, profile: task, select: {p: 0.2}}`. */
function longSelection(given: unknown, at: string): unknown {
  if (!isPlain(given)) return given;
  const method = given["type"] === undefined ? { type: "esft", ...given } : given;
  if (method["type"] !== "esft" && method["type"] !== "lora") return method;
  const own: Plain = {};
  const select: Plain = {};
  for (const [key, value] of Object.entries(method)) (Object.hasOwn(selectSchema.shape, key) ? select : own)[key] = value;
  const below = own["select"];
  if (Object.keys(select).length > 0) {
    if (below !== undefined && !isPlain(below)) return method;
    const twice = Object.keys(select).find((key) => Object.hasOwn(below ?? {}, key));
    if (twice !== undefined)
      throw new ConfigError(`${at}: ${twice} and select.${twice} are the same option; give one of them`, {
        where: { key: `${at.replace(/^[^.]*\./, "")}.${twice}` },
      });
    own["select"] = { ...below, ...select };
  }
  const measured = own["select"] !== undefined && own["experts"] === undefined && own["profile"] === undefined;
  return measured ? { ...own, profile: TASK_PROFILE } : own;
}
