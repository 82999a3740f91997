// Options and steps that several commands share.

import { InvalidArgumentError, Option } from "commander";
import type { Command } from "commander";
import { ConfigError } from "../errors.ts";
import type { DataInput } from "../train/options.ts";
import type { Terminal } from "./terminal.ts";

/** A command that ran and found the answer to be no (a check failed): exit code 1 without an error message. */
export class CheckFailed extends Error {}

/** A number given on the command line; a word that is none is a usage error. */
export function number(text: string): number {
  const value = text.trim() === "" ? NaN : Number(text);
  if (!Number.isFinite(value)) throw new InvalidArgumentError("expected a number");
  return value;
}
export function wholeNumber(text: string): number {
  const value = number(text.replaceAll("_", ""));
  if (!Number.isSafeInteger(value) || value < 0) throw new InvalidArgumentError("expected a whole number");
  return value;
}

export interface MachineFlags {
  readonly device: "auto" | "cpu" | "cuda";
  readonly threads?: number;
  readonly precision: "f32" | "bf16";
}
export function machineOptions(command: Command): Command {
  return command
    .addOption(new Option("--device <kind>", "where to compute").choices(["auto", "cpu", "cuda"]).default("auto"))
    .option("--threads <n>", "worker threads (default: all); results do not depend on it", wholeNumber)
    .addOption(new Option("--precision <kind>", "operands of the matrix products").choices(["f32", "bf16"]).default("f32"));
}

export interface DataFlags {
  readonly template?: string;
  readonly shape?: "messages" | "sharegpt" | "alpaca" | "prompt_completion" | "text";
  readonly onBadRow?: "error" | "skip";
  readonly maxLength?: number;
}
export function dataOptions(command: Command): Command {
  return command
    .option("--template <name>", '"tokenizer" (the checkpoint\'s chat template), "esft" (the official format), or a Jinja file')
    .addOption(
      new Option("--shape <name>", "shape of the rows (default: each row's keys decide)").choices([
        "messages",
        "sharegpt",
        "alpaca",
        "prompt_completion",
        "text",
      ]),
    )
    .addOption(new Option("--on-bad-row <what>", "rows that cannot be used (default: error)").choices(["error", "skip"]));
}
export function dataInput(flags: DataFlags, maxPositions?: number): DataInput {
  const { template, shape, onBadRow } = flags;
  const maxLength = flags.maxLength ?? (maxPositions === undefined ? undefined : Math.min(1024, maxPositions));
  return {
    ...(template ? { template } : {}),
    ...(shape ? { shape } : {}),
    ...(onBadRow ? { onBadRow } : {}),
    ...(maxLength ? { maxLength } : {}),
  };
}

/** The device kind to use. @throws ConfigError "cuda" in a build without it */
export function deviceKind(device: MachineFlags["device"]): "cpu" {
  if (device === "cuda")
    throw new ConfigError('device "cuda": this build has no CUDA backend; use --device cpu, or auto', { where: { key: "device" } });
  return "cpu";
}

/** Opens a model and says where it computes. */
export async function openModel(
  dir: string,
  flags: MachineFlags,
  terminal: Terminal,
  options: { readonly adapter?: string; readonly quiet?: boolean } = {},
) {
  const device = deviceKind(flags.device);
  const { MoeModel } = await import("../moe_model.ts");
  const model = await MoeModel.fromPretrained(dir, {
    device,
    precision: flags.precision,
    signal: terminal.signal,
    ...(flags.threads === undefined ? {} : { threads: flags.threads }),
    ...(options.adapter === undefined ? {} : { adapter: options.adapter }),
  });
  if (!options.quiet) {
    const { instructionSet, threads } = model.device.info;
    terminal.note(
      `device: cpu${flags.device === "auto" ? " (auto)" : ""}, ${instructionSet}, ${threads} thread${threads === 1 ? "" : "s"}, ${flags.precision}`,
    );
  }
  return model;
}

/** "done of total unit" lines for the library's progress callbacks. */
export function byteProgress(terminal: Terminal): (p: { phase: string; done: number; total: number }) => void {
  return ({ phase, done, total }) => {
    if (total > 50e6) terminal.progress(`${phase} ${Math.floor((100 * done) / Math.max(1, total))} %`);
  };
}
