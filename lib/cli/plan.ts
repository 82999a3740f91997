// esft plan: what fits a memory, what it costs in bytes and time, before anything is loaded.

import { InvalidArgumentError, Option } from "@commander-js/extra-typings";
import type { Command } from "@commander-js/extra-typings";
import { bytes, count, duration, pairs, percent, table } from "../format.ts";
import { decimal } from "../options.ts";
import type { PlanBytes, PlanChoice, PlanResult } from "../plan/plan.ts";
import { CheckFailed, dataInput, dataOptions, machineOptions, number, wholeNumber } from "./common.ts";
import { MODEL, modelDir } from "./hub.ts";
import type { Terminal } from "./terminal.ts";

const UNITS: Readonly<Record<string, number>> = {
  "": 1,
  k: 1e3,
  m: 1e6,
  g: 1e9,
  t: 1e12,
  ki: 2 ** 10,
  mi: 2 ** 20,
  gi: 2 ** 30,
  ti: 2 ** 40,
};

/** 24GB, 24 GiB, 800MB, 24000000000. */
export function memoryBytes(text: string): number {
  const [, digits = "", unit = ""] = /^\s*([\d._]+)\s*([kmgt]?i?)b?\s*$/i.exec(text) ?? [];
  const value = decimal(digits);
  const factor = UNITS[unit.toLowerCase()];
  if (value === undefined || factor === undefined || !(value > 0)) throw new InvalidArgumentError("expected bytes, such as 24GB or 16GiB");
  return Math.floor(value * factor);
}

function planCommand(program: Command) {
  const command = program
    .command("plan")
    .description("what fits a memory: methods, batches, bytes and time, from a checkpoint's headers and the rows; nothing is loaded")
    .argument("<model>", MODEL)
    .requiredOption("--data <file>", "training rows (JSONL, JSON, CSV or Parquet)")
    .addOption(new Option("--memory <size>", "what the run may take in all: 24GB, 16GiB").argParser(memoryBytes).makeOptionMandatory())
    .addOption(new Option("--method <type>", "only this method (default: all)").choices(["esft", "lora", "perft", "full"] as const))
    .option("--profile <file>", "output of esft profile on these rows: plans p and the experts that it selects")
    .option("--steps <n>", "updates", wholeNumber)
    .option("--epochs <x>", "instead of steps: passes over the packed rows", number)
    .option("--rows-per-step <n>", "rows per update (default: 32)", wholeNumber)
    .option("--micro-batch <n>", "rows per forward and backward; fixed where it is given", wholeNumber)
    .option("--max-length <n>", "tokens per row; fixed where it is given (default: 1024, fewer where nothing fits)", wholeNumber)
    .option("--no-time", "memory alone: this machine is not measured")
    .option("--no-cached", "measure this machine anew")
    .option("--json", "print JSON");
  return machineOptions(dataOptions(command)).addHelpText(
    "after",
    "\nExamples:\n  esft plan ./OLMoE-1B-7B --data law.jsonl --memory 24GB\n  esft plan ./OLMoE-1B-7B --data law.jsonl --memory 64GB --method esft --profile law.profile.json --epochs 2",
  );
}

export function registerPlan(program: Command, terminal: Terminal): void {
  planCommand(program).action(async (dir, flags) => {
    const { plan } = await import("../plan/plan.ts");
    const { memory, method, profile, steps, epochs, rowsPerStep, microBatch, maxLength, device, threads, precision, time, cached } = flags;
    const { maxLength: _, ...rest } = dataInput(flags, Number.MAX_SAFE_INTEGER);
    const given = Object.fromEntries(Object.entries(rest).filter(([, v]) => v !== undefined));
    const found = await plan(await modelDir(dir, terminal), {
      data: flags.data,
      memory,
      method,
      profile,
      steps,
      epochs,
      rowsPerStep,
      microBatch,
      dataOptions: { ...given, ...(maxLength === undefined ? {} : { maxLength }) },
      device,
      threads,
      precision,
      time,
      cached,
      signal: terminal.signal,
    });
    if (flags.json) terminal.json(found);
    else print(found, terminal);
    if (found.best.length === 0) throw new CheckFailed();
  });
}

const PARTS: readonly (readonly [keyof PlanBytes, string])[] = [
  ["weights", "weights, as the files have them"],
  ["trained", "masters of what trains"],
  ["gradients", "gradients"],
  ["optimizer", "moments of the optimizer"],
  ["activations", "activations"],
  ["workspace", "workspace of ops"],
  ["host", "rows under way, saving"],
  ["data", "encoded rows"],
  ["process", "the process itself"],
  ["total", "together"],
];

function print({ memory, best, unfit, assumptions, calibrationSeconds }: PlanResult, terminal: Terminal): void {
  for (const text of assumptions) terminal.note(text);
  if (calibrationSeconds > 0) terminal.note(`this machine was measured in ${duration(calibrationSeconds)}`);
  terminal.print(
    `${best.length === 0 ? "nothing fits" : `the ${best.length === 1 ? "plan" : `${best.length} best plans`} that fit${best.length === 1 ? "s" : ""}`} ${bytes(memory)}:`,
  );
  if (best.length > 0) {
    terminal.print(
      table(
        ["plan", "experts", "trained", "micro-batch", "memory", "free", "per step", "in all"],
        best.map((c) => [
          c.label,
          c.expertShare === null ? "" : `${c.experts} (${percent(c.expertShare)})`,
          count(c.trainedParameters),
          `${c.microBatch} × ${c.maxLength}`,
          bytes(c.bytes.total),
          bytes(memory - c.bytes.total),
          c.time ? duration(c.time.secondsPerStep) : "",
          c.time ? `${duration(c.time.seconds)}, ${c.time.steps} steps` : "",
        ]),
      ),
    );
    best.forEach((c, i) => terminal.print(`${i + 1}. ${c.label}: ${c.reason}`));
    terminal.print(`\nmemory of ${best[0]!.label}:\n${memoryOf(best[0]!)}`);
  }
  if (unfit.length > 0) terminal.print(`\nwhat does not fit:\n${pairs(unfit.map((u) => [u.label, u.reason]))}`);
}

function memoryOf({ bytes: of }: PlanChoice): string {
  return pairs(PARTS.filter(([key]) => of[key] > 0).map(([key, words]) => [words, bytes(of[key])]));
}
