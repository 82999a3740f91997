// Names of options: what other fine-tuning tools call them is answered with ours, flags and keys of a file are one set of names, and a
// suggestion is made only where it is near. No GPU. Alone: npx vitest run test/cli/names.test.ts

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { jobLeaves, jobNames } from "../../lib/cli/job_options.ts";
import { readJob } from "../../lib/cli/job.ts";
import { dataSchema, parseOptions, selectSchema } from "../../lib/options.ts";
import { foreign } from "../../lib/options/elsewhere.ts";
import { nearest } from "../../lib/options/suggest.ts";
import { CheckedRequest } from "../../lib/train/request.ts";
import type { TrainRequest } from "../../lib/train/request.ts";
import { cli, scratch } from "./support.ts";

const root = scratch();
const base: Record<string, unknown> & { method: Record<string, unknown> } = {
  model: "m",
  data: "rows.jsonl",
  method: { type: "esft", experts: "e.json" },
  outDir: "o",
};

/** A job from a file with these lines. */
async function job(lines: Readonly<Record<string, unknown>> | string) {
  const file = join(root, "job.yaml");
  writeFileSync(file, typeof lines === "string" ? lines : JSON.stringify(lines));
  return readJob(file, {}, {});
}
const fault = async (lines: Readonly<Record<string, unknown>> | string): Promise<string> =>
  job(lines).then(
    () => "accepted",
    (error: Error) => error.message.replaceAll(join(root, "job.yaml"), "FILE"),
  );

describe("the table of other tools' names", () => {
  const paths = new Set(jobLeaves.map((leaf) => leaf.path.join(".")));
  const bare = (name: string): string => name.toLowerCase().replace(/[-_.]/g, "");

  it("answers with options that exist, each name once, none that is ours", () => {
    expect(foreign.paths.filter((path) => !paths.has(path))).toEqual([]);
    const names = foreign.names.map(bare);
    expect(names.filter((name, i) => names.indexOf(name) !== i)).toEqual([]);
    const ours = new Set([...jobNames.keys()].map(bare));
    expect(names.filter((name) => ours.has(name))).toEqual([]);
  });

  it.each([
    ["batch_size", "--rows-per-step", "--micro-batch"],
    ["per_device_train_batch_size", "--rows-per-step", "--micro-batch"],
    ["micro_batch_size", "--rows-per-step", "--micro-batch"],
    ["gradient_accumulation_steps", "--rows-per-step", "--micro-batch"],
    ["learning_rate", "--lr"],
    ["lr_scheduler_type", "--schedule"],
    ["lr_warmup_fraction", "--warmup-ratio", "--warmup-steps"],
    ["num_train_epochs", "--epochs"],
    ["n_epochs", "--epochs"],
    ["max_steps", "--steps"],
    ["max_grad_norm", "--clip-norm"],
    ["cutoff_len", "--max-length"],
    ["sequence_len", "--max-length"],
    ["max_seq_length", "--max-length"],
    ["output_dir", "--out"],
    ["dataset", "--data"],
    ["datasets", "--data"],
    ["training_file", "--data"],
    ["val_dataset", "--eval-data"],
    ["val_set_size", "--eval-fraction"],
    ["base_model", "--model"],
    ["model_name_or_path", "--model"],
    ["lora_r", "--rank", "--method lora"],
    ["lora_rank", "--rank"],
    ["lora_alpha", "--alpha"],
    ["lora_target_modules", "--targets"],
    ["finetuning_type", "--method"],
    ["save_steps", "--save-every"],
    ["eval_steps", "--eval-every"],
    ["logging_steps", "events.jsonl"],
    ["bf16", "--precision"],
    ["sample_packing", "--packing"],
    ["train_on_inputs", "assistant messages"],
    ["flash_attention", "nothing to set"],
    ["deepspeed", "--device"],
    ["gradient_checkpointing", "--micro-batch"],
    ["resume_from_checkpoint", "--resume"],
    ["router_aux_loss_coef", "--aux-loss"],
  ])("%s as a flag, in any spelling", async (name, ...answers) => {
    for (const flag of [`--${name}`, `--${name.replaceAll("_", "-")}`, `--optimizer.${name}`]) {
      const { code, err } = await cli(["train", flag, "1"]);
      expect([code, err]).toEqual([
        2,
        expect.stringMatching(new RegExp(`^error \\[ERR_USAGE\\]: unknown option ${flag}; in esft: .*\\(see esft train --help\\)\n$`)),
      ]);
      for (const answer of answers) expect(err).toContain(answer);
    }
  });

  /** Keys of axolotl, TRL and transformers, LLaMA-Factory and ms-swift, and the whole answer to each in a file. */
  it.each([
    ["learning_rate", "optimizer.lr (default 1e-5)"],
    ["num_train_epochs", "epochs, also parts of one, in place of steps: an epoch has packed rows / rowsPerStep updates"],
    ["num_epochs", "epochs, also parts of one, in place of steps: an epoch has packed rows / rowsPerStep updates"],
    ["max_steps", "steps, the number of updates"],
    ["per_device_train_batch_size", "rowsPerStep, rows per update (batch size times accumulation steps times devices), and microBatch, rows per forward and backward, for memory"],
    ["micro_batch_size", "rowsPerStep, rows per update (batch size times accumulation steps times devices), and microBatch, rows per forward and backward, for memory"],
    ["gradient_accumulation_steps", "nothing to set: rowsPerStep is batch size times accumulation steps, taken microBatch rows at a time, and the gradients accumulate"],
    ["lr_scheduler_type", "optimizer.schedule: constant, linear, cosine or wsd, with optimizer.warmupSteps or optimizer.warmupRatio"],
    ["lr_scheduler", "optimizer.schedule: constant, linear, cosine or wsd, with optimizer.warmupSteps or optimizer.warmupRatio"],
    ["lr_scheduler_kwargs", "options of their own: optimizer.minLrRatio, and of wsd optimizer.decaySteps or optimizer.decayRatio, and optimizer.decayShape"],
    ["num_decay_steps", "optimizer.decaySteps, with optimizer.schedule wsd"],
    ["cosine_min_lr_ratio", "optimizer.minLrRatio, the final learning rate as a share of optimizer.lr"],
    ["max_seq_length", "data.maxLength, tokens per row (default 1024)"],
    ["sequence_len", "data.maxLength, tokens per row (default 1024)"],
    ["cutoff_len", "data.maxLength, tokens per row (default 1024)"],
    ["max_grad_norm", "optimizer.clipNorm"],
    ["adam_beta1", "optimizer.beta1"],
    ["adam_beta2", "optimizer.beta2"],
    ["adam_epsilon", "optimizer.eps"],
    ["optim", "nothing to set: the optimizer is AdamW; its options are optimizer.lr, optimizer.weightDecay and so on"],
    ["lora_r", "method.rank, with method.type lora"],
    ["lora_rank", "method.rank, with method.type lora"],
    ["lora_alpha", "method.alpha, with method.type lora (default: twice the rank)"],
    ["lora_target_modules", "method.targets, with method.type lora: attention, dense, shared, router, experts, head, linear, all-linear, or names of modules"],
    ["lora_target", "method.targets, with method.type lora: attention, dense, shared, router, experts, head, linear, all-linear, or names of modules"],
    ["val_set_size", "evalFraction, a share of the data (0.02 = 2 %)"],
    ["split_dataset_ratio", "evalFraction, a share of the data (0.02 = 2 %)"],
    ["save_steps", "saveEvery, in updates"],
    ["eval_steps", "evalEvery, in updates; 0 = only at the start and the end"],
    ["early_stopping_patience", "earlyStop.patience, in evaluations without a lower held-out loss (every evalEvery updates)"],
    ["early_stopping_threshold", "earlyStop.minDelta, with earlyStop.patience"],
    ["decay_type", "optimizer.decayShape, with optimizer.schedule wsd: linear, cosine or sqrt"],
    ["max_samples", "rows beside a file in the list that data may be in a YAML job: so many of its rows, drawn by seed"],
    ["interleave_probs", "weights of files: --data a.jsonl=2 --data b.jsonl=1 on the command line, in a YAML job weight beside each file in the list that data may be"],
    ["output_dir", "outDir, the run directory"],
    ["bf16", "precision: f32 or bf16, the operands of matrix products; what trains is kept in f32 in any case, and there is no fp16"],
    ["group_by_length", "nothing to set: rows are packed (data.packing) and never padded"],
    ["push_to_hub", "no such option: nothing leaves this machine; the adapter is in outDir"],
  ])("%s in a file: %s", async (name, answer) => {
    expect(await fault({ ...base, [name]: 1 })).toBe(`FILE: unknown key "${name}"; in esft: ${answer}`);
  }); // prettier-ignore

  it.each([
    ["warmup_ratio", "optimizer.warmupRatio"],
    ["weight_decay", "optimizer.weightDecay"],
    ["warmup_steps", "optimizer.warmupSteps"],
    ["early_stop", "earlyStop"],
  ])("%s is ours in another spelling", async (name, ours) => {
    expect(await fault({ ...base, [name]: 1 })).toContain(`unknown key "${name}"; did you mean "${ours}"? (valid: `);
  });

  it("every name of it is answered, in a file and as a flag, in words that leave nothing open", async () => {
    for (const name of foreign.names) {
      const text = await fault({ ...base, [name]: 1 });
      expect([name, text]).toEqual([name, expect.stringMatching(new RegExp(`^FILE: unknown key "${name}"; in esft: [^{}]+$`))]);
      const { err } = await cli(["train", `--${name}`, "1"]);
      expect([name, err]).toEqual([name, expect.stringMatching(/; in esft: /)]);
    }
  }, 240_000); // some hundred command lines

  it("as a key of a file, of a level and of a program, where the answer is a key", async () => {
    expect(await fault({ ...base, learning_rate: 1 })).toBe('FILE: unknown key "learning_rate"; in esft: optimizer.lr (default 1e-5)');
    expect(await fault({ ...base, optimizer: { learningRate: 1 } })).toMatch(
      /^FILE\.optimizer: unknown key "learningRate"; in esft: optimizer\.lr /,
    );
    expect(await fault({ ...base, method: { type: "lora", lora_r: 8 } })).toBe(
      'FILE.method: unknown key "lora_r"; in esft: method.rank, with method.type lora',
    );
    expect(() => CheckedRequest.parse({ data: "d", method: "full", outDir: "o", batchSize: 4 } as unknown as TrainRequest)).toThrow(
      /in esft: rowsPerStep, .* and microBatch, /,
    );
    expect(() => parseOptions(dataSchema, { cutoff_len: 4 }, "data")).toThrow(
      /^data: unknown key "cutoff_len"; in esft: maxLength, tokens per row/,
    );
  });

  it("says nothing of options that a command or a call does not have", async () => {
    expect((await cli(["preview", "m", "d", "--learning-rate", "1"])).err).toBe(
      "error [ERR_USAGE]: unknown option --learning-rate (see esft preview --help)\n",
    );
    expect(() => parseOptions(selectSchema, { num_epochs: 4 }, "select")).toThrow(/^select: unknown key "num_epochs" \(valid: /);
  });
});

describe("suggestions", () => {
  const flags = ["--max-length", "--maxLength", "--out", "--out-dir", "--eval-data", "--data", "--seed", "--p", "--steps", "--lr"];
  it.each([
    ["--max-lenght", "--max-length"],
    ["--max-len", "--max-length"],
    ["--MAX-LENGTH", "--max-length"],
    ["--output", "--out"],
    ["--step", "--steps"],
    ["--sed", "--seed"],
    ["--evaldata", "--eval-data"],
    ["--foo", undefined],
    ["--batch-size", undefined],
    ["--learning-rate", undefined],
    ["--x", undefined],
    ["--q", undefined],
    ["--rl", "--lr"],
  ])("%s: %s", (word, name) => {
    expect(nearest(word, flags)).toBe(name);
  });

  it("of commands, only near ones", async () => {
    expect((await cli(["trian"])).err).toMatch(/unknown command trian; did you mean train\?/);
    expect((await cli(["foo"])).err).toMatch(
      /unknown command foo; the commands are pull, init, inspect, plan, profile, .*demo \(see esft --help\)/,
    );
  });

  it("of other methods are told in the words of the one that was chosen", async () => {
    const lora = { type: "lora", router: "lora" };
    expect(await fault({ ...base, method: { ...lora, routerRank: 3 } })).toBe(
      'FILE.method: unknown key "routerRank"; with method lora: ranks router=3',
    );
    expect(await fault({ ...base, method: { ...lora, routerAlpha: 8 } })).toMatch(/; with method lora: alphas router=8$/);
    expect(await fault({ ...base, method: { ...lora, ranks: "router=3", alphas: "router=8" } })).toBe("accepted");
    expect(await fault({ ...base, method: { type: "full", routerRank: 3 } })).toMatch(/unknown key "routerRank"; did you mean "router"/);
  });

  it("list every valid key once, of the kind that was chosen", async () => {
    expect(await fault({ ...base, method: { type: "esft", experts: "e", foo: 1 } })).toBe(
      'FILE.method: unknown key "foo" (valid: type, experts, profile, select, sharedExperts, nonExpertModules, router, condensers, condenserRate, routerRank, routerAlpha)',
    );
    expect(await fault({ ...base, method: { type: "perft", experts: "e" } })).toBe(
      'FILE.method: unknown key "experts" (valid: type, variant, rank, alpha, form, adapters, adaptersPerToken, compat, balanceLoss, baseBalanceLoss, init, dropout, router, condensers, condenserRate, routerRank, routerAlpha)',
    );
    expect(await fault({ ...base, method: { type: "lora", rnak: 1 } })).toMatch(
      /did you mean "rank"\? \(valid: type, rank, alpha, targets, ranks, alphas, rslora, expertTerms, init, dropout, experts, profile, select, router, condensers, condenserRate, reallocate, reallocateWarmup, reallocateEvery, reallocateDecay, reallocateRatio, reallocateColumns, minRank, maxRank\)$/,
    );
    for (const text of [await fault({ ...base, foo: 1 }), await fault({ ...base, method: { type: "nope", foo: 1 } })]) {
      const valid = /\(valid: (.*)\)$/.exec(text)?.[1]?.split(", ") ?? [];
      expect(valid).toEqual([...new Set(valid)]);
    }
  });

  it("know where a key belongs, and other spellings of it", async () => {
    expect(await fault({ ...base, weight_decay: 1 })).toMatch(/did you mean "optimizer\.weightDecay"\?/);
    expect(await fault({ ...base, optimizer: { weight_decay: 1 } })).toMatch(/did you mean "weightDecay"\?/);
    expect(() => CheckedRequest.parse({ data: "d", method: "full", outDir: "o", lr: 1 } as unknown as TrainRequest)).toThrow(
      /did you mean "optimizer\.lr"\?/,
    );
  });
});

describe("flags and keys are one set of names", () => {
  it.each([
    [{ lr: 0.5 }, "optimizer.lr", 0.5],
    [{ "optimizer.lr": 0.5 }, "optimizer.lr", 0.5],
    [{ optimizer: { lr: 0.5 } }, "optimizer.lr", 0.5],
    [{ weightDecay: 0.5 }, "optimizer.weightDecay", 0.5],
    [{ "weight-decay": 0.5 }, "optimizer.weightDecay", 0.5],
    [{ "optimizer.weight-decay": 0.5, optimizer: { lr: 1 } }, "optimizer.weightDecay", 0.5],
    [{ maxLength: 64 }, "data.maxLength", 64],
    [{ "max-length": 64 }, "data.maxLength", 64],
    [{ "rows-per-step": 3 }, "rowsPerStep", 3],
    [{ template: "esft" }, "data.template", "esft"],
  ])("%j in a file", async (keys, path, value) => {
    const { request } = await job({ ...base, ...keys });
    expect(path.split(".").reduce((at: unknown, key) => (at as Record<string, unknown>)[key], request.options)).toBe(value);
  });

  it("also those of the method, the data and the directory", async () => {
    const { experts: _, ...method } = base.method;
    const { request } = await job({
      model: "m",
      "data.file": "x.jsonl",
      shape: "text",
      method,
      profile: "p.json",
      p: 0.3,
      score: "gate",
      out: "there",
    });
    expect(request).toMatchObject({ data: "x.jsonl", outDir: "there", method: { profile: "p.json", select: { p: 0.3, score: "gate" } } });
    expect(request.options.data.shape).toBe("text");
    expect((await job({ model: "m", data: "d", method: "lora", rank: 4, out: "o" })).request.method).toMatchObject({
      type: "lora",
      rank: 4,
    });
  });

  it("every name of a flag is a name of a key", async () => {
    for (const [name, path] of jobNames) {
      const text = await fault({ [name]: true }); // refused for its value, not for its name
      expect([name, path, text]).toEqual([name, path, expect.not.stringMatching(/^FILE: unknown key/)]);
      expect((await cli(["train", `--${name}`, "x"])).err).not.toMatch(/unknown option/);
    }
  }, 240_000);

  it.each([
    [{ lr: 1, optimizer: { lr: 2 } }, "optimizer.lr and lr"],
    [{ lr: 1, "optimizer.lr": 2 }, "lr and optimizer.lr"],
    [{ "max-length": 4, data: { file: "d", maxLength: 8 } }, "data.maxLength and max-length"],
    [{ out: "p" }, "outDir and out"],
    [{ "data.file": "e" }, "data.file and data.file"],
  ])("%j is one option twice", async (keys, names) => {
    expect(await fault({ ...base, ...keys })).toBe(`FILE: ${names} are the same option; give one of them`);
  });

  it.each([
    [["--lr", "1", "--optimizer.lr", "2"], "--lr and --optimizer.lr"],
    [["--maxLength", "3", "--max-length", "3"], "--max-length and --maxLength"],
    [["--data", "a", "--data.file", "b"], "--data and --data.file"],
  ])("%j is one option twice", async (flags, names) => {
    expect(await cli(["train", ...flags])).toMatchObject({
      code: 2,
      err: expect.stringContaining(`${names} are the same option; give one of them`),
    });
  });

  it("flags win over a file, whatever names they have there", async () => {
    const file = join(root, "job.yaml");
    writeFileSync(file, JSON.stringify({ ...base, lr: 1, "max-length": 8 }));
    const { request } = await readJob(file, { optimizer: { lr: 2 } }, {});
    expect([request.options.optimizer.lr, request.options.data.maxLength]).toEqual([2, 8]);
  });

  it.each(["__proto__", "constructor", "toString", "hasOwnProperty"])("%s is an unknown key like any other", async (key) => {
    expect(await fault(`${JSON.stringify(base).slice(0, -1)}, "${key}": 3}`)).toMatch(new RegExp(`unknown key "${key}"`));
  });
});

describe("data", () => {
  it.each([
    [["a", "b"], /^accepted$/],
    [[{ file: "a", weigth: 1 }], /^FILE\.data\.files\.0: unknown key "weigth"; did you mean "weight"\?/],
    [3, /^FILE\.data: expected a file of rows, a list of files, or \{file, …\}, found 3$/],
    [null, /^FILE\.data: expected a file of rows, a list of files, or \{file, …\}, found null$/],
    [{ file: 3 }, /^FILE\.data\.file: expected a string, found 3$/],
    [{}, /^FILE: data\.file is required/],
  ])("%j", async (data, message) => {
    expect(await fault({ ...base, data })).toMatch(message);
  });
  it("none", async () => {
    const { data: _, ...rest } = base;
    expect(await fault(rest)).toMatch(/^FILE: data\.file is required \(--data FILE/);
  });
});

describe("a file", () => {
  it.each(["steps: !int 5", "model: !!js/function x", "steps: 1\nsteps: 2", "a: &a [*a]\nb: *c"])(
    "whose YAML has a meaning that nobody knows is refused: %s",
    async (line) => {
      const rest = Object.entries(base).filter(([key]) => !line.startsWith(`${key}:`));
      const text = `${rest.map(([key, value]) => `${key}: ${JSON.stringify(value)}`).join("\n")}\n`;
      expect(await fault(text + line)).toMatch(/^FILE: not YAML: /);
      expect(await fault(`model: m\n${text.replace(/^model: .*\n/m, "")}`)).toBe("accepted");
    },
  );

  it("is as long as a job can be, and no longer", async () => {
    const text = `${JSON.stringify(base)}\n`;
    expect(await fault(text + "#".repeat(2 ** 16 - text.length))).toBe("accepted");
    expect(await fault(text + "#".repeat(2 ** 16 - text.length + 1))).toMatch(
      /^cannot read FILE: expected at most 65536 bytes of text, found 65537$/,
    );
  });
});
