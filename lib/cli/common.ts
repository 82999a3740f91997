// Options and steps that several commands share.

import { stat } from "node:fs/promises";
import { InvalidArgumentError, Option } from "@commander-js/extra-typings";
import type { Command, OptionValues } from "@commander-js/extra-typings";
import { ConfigError } from "../errors.ts";
import type { MoeModel } from "../moe_model.ts";
import { decimal, deviceSchema, FORMATS, SHAPES } from "../options.ts";
import type { DataInput, DeviceName, MachineOptions } from "../options.ts";
import { STANDARD_INPUT } from "../files/standard_input.ts";
import { bytes } from "../format.ts";
import { modelDir } from "./hub.ts";
import type { Terminal } from "./terminal.ts";

/** A command that ran and found the answer to be no (a check failed): exit code 1 without an error message. */
export class CheckFailed extends Error {}

/** A number given on the command line; a word that is none is a usage error. */
export function number(text: string): number {
  const value = decimal(text);
  if (value === undefined) throw new InvalidArgumentError("expected a number");
  return value;
}
export function wholeNumber(text: string): number {
  const value = decimal(text);
  if (value === undefined || !Number.isSafeInteger(value) || value < 0) throw new InvalidArgumentError("expected a whole number");
  return value;
}

const MOST_PORTS = 65_535;

export function portNumber(text: string): number {
  const value = wholeNumber(text);
  if (value > MOST_PORTS) throw new InvalidArgumentError(`expected a port, 0 to ${MOST_PORTS}`);
  return value;
}

/** Resolves at the first interrupt. */
export function interrupted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
}

/** --threads, where it is no part of a schema. */
export function threadNumber(text: string): number {
  const value = wholeNumber(text);
  if (value === 0) throw new InvalidArgumentError("expected a whole number from 1");
  return value;
}

export function machineOptions<Args extends unknown[], Opts extends OptionValues>(command: Command<Args, Opts>) {
  return command
    .addOption(
      new Option("--device <kind>", "where to compute: auto (a GPU that can be used, else the CPU), cpu, cuda, cuda:N")
        .argParser(deviceName)
        .default("auto" as const),
    )
    .option("--threads <n>", "worker threads (default, and most: all processors); results do not depend on it", threadNumber)
    .addOption(
      new Option("--precision <kind>", "operands of the matrix products (default: f32 on the CPU, bf16 on CUDA)").choices([
        "f32",
        "bf16",
      ] as const),
    )
    .addOption(
      new Option("--dequantise <kind>", "weights that are quantised on disk, in memory (default: exact)").choices([
        "exact",
        "bf16",
      ] as const),
    );
}
function deviceName(text: string): DeviceName {
  const { data } = deviceSchema.safeParse(text);
  if (data === undefined) throw new InvalidArgumentError("expected auto, cpu, cuda or cuda:N");
  return data;
}

export function dataOptions<Args extends unknown[], Opts extends OptionValues>(command: Command<Args, Opts>) {
  return command
    .option("--template <name>", '"tokenizer" (the checkpoint\'s chat template), "esft" (the official format), or a Jinja file')
    .addOption(
      new Option(
        "--format <name>",
        "of files whose name does not tell it: .jsonl .json .csv .parquet, .gz or not (default: jsonl)",
      ).choices(FORMATS),
    )
    .addOption(new Option("--shape <name>", "shape of the rows (default: each row's keys decide)").choices(SHAPES))
    .addOption(new Option("--on-bad-row <what>", "rows that cannot be used (default: error)").choices(["error", "skip"] as const))
    .addOption(
      new Option("--on-dropped <what>", "rows of which the chat template leaves out parts (default: error)").choices([
        "error",
        "allow",
      ] as const),
    );
}
/** Rows are at most 1024 tokens long where no flag says more, or as long as the model takes. */
export function dataInput({ template, format, shape, onBadRow, onDropped, maxLength }: DataInput, maxPositions: number): DataInput {
  return { template, format, shape, onBadRow, onDropped, maxLength: maxLength ?? Math.min(1024, maxPositions) };
}

/** Says that rows come out of a pipe, before the wait for them begins. @throws ConfigError they would be read more than once */
export async function announcePipe(file: string, terminal: Terminal, readOnce = true): Promise<void> {
  const input = file === STANDARD_INPUT;
  const isPipe = input || (await stat(file).then((s) => s.isFIFO(), () => false)); // prettier-ignore
  if (!isPipe) return;
  const name = input ? "standard input" : `the pipe ${file}`;
  if (!readOnce)
    throw new ConfigError(
      `${input ? "-" : file} is ${input ? name : "a pipe"}, and this command reads the rows twice; write them to a file first`,
      {
        where: { file },
      },
    );
  terminal.note(input ? "rows: reading standard input" : `rows: waiting for what is written to ${name}`);
}

/** Opens a model, a folder or one of the hub, and says where it computes. */
export async function openModel(word: string, { device, threads, precision, dequantise }: MachineOptions, terminal: Terminal) {
  const dir = await modelDir(word, terminal);
  const { MoeModel } = await import("../moe_model.ts");
  const options = { device, threads, precision, dequantise, signal: terminal.signal, onProgress: byteProgress(terminal) };
  const model = await MoeModel.fromPretrained(dir, options);
  terminal.note(deviceLine(model, device));
  return model;
}

function deviceLine({ device, deviceReason, transformer }: MoeModel, asked: DeviceName): string {
  const { backend, name, instructionSet, threads, memoryBytes } = device.info;
  const auto = asked !== "auto" ? "" : deviceReason === null ? " (auto)" : ` (auto: ${deviceReason})`;
  const where =
    backend === "cuda"
      ? `${name}, ${instructionSet}, ${bytes(memoryBytes)}`
      : `${instructionSet}, ${threads} thread${threads === 1 ? "" : "s"}`;
  return `device: ${backend}${auto}, ${where}, ${transformer.precision}`;
}

/** "done of total unit" lines for the library's progress callbacks. */
export function byteProgress(terminal: Terminal): (p: { phase: string; done: number; total: number }) => void {
  return ({ phase, done, total }) => {
    if (total > 50e6) terminal.progress(`${phase} ${Math.floor((100 * done) / Math.max(1, total))} %`);
  };
}
