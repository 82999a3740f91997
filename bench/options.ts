// The command line of the benchmark: one table of flags, from which parsing, checks and --help are made.

import { accessSync, constants, statSync } from "node:fs";
import { dirname } from "node:path";
import { parseArgs } from "node:util";
import { ConfigError } from "../lib/errors.ts";
import type { DeviceKind } from "../lib/tensor.ts";
import { threadCount, usableProcessors } from "../lib/tensor/threads.ts";
import type { Backend } from "../test/ops/perf.ts";

interface Flag {
  /** What the value is called; absent: the flag is a switch. */
  readonly value?: string;
  readonly help: string;
  /** The one device that has it. */
  readonly on?: Backend;
}
const threadsHere = usableProcessors();
const flags = {
  device: { value: "D", help: "cpu (default), cuda, cuda:N" },
  list: { help: "print the names of the cases and stop" },
  describe: { help: "print the cases as JSON, as bench/peer_torch.py --cases reads them, and stop" },
  tiny: { help: "the same cases at small sizes: they run and repeat their bits, nothing is measured" },
  json: { value: "FILE", help: "write the results here" },
  peer: { value: "PYTHON", help: "a python with torch and transformers: the same cases in the same minutes, the fastest variant is shown" },
  variants: { value: "REGEXP", help: "which variants of the peer" },
  threads: { value: "N", help: `threads of the CPU (${threadsHere})`, on: "cpu" },
  rounds: { value: "N", help: "rounds per case (12)", on: "cpu" },
  seconds: { value: "N", help: "time for the slices of a case (2); a quarter of it in the sweep", on: "cuda" },
  headline: { help: "leave out the sweep of layers over models, lengths and routings", on: "cuda" },
  peers: {
    value: "WHICH",
    help: "which cases PyTorch runs too: headline (default), all, none; without --peer a python is looked for",
    on: "cuda",
  },
  markdown: { value: "FILE", help: "write the section of the GPU into this file", on: "cuda" },
  from: { value: "FILE[,FILE]", help: "report JSON files of earlier runs, measure nothing", on: "cuda" },
  help: { help: "print this and stop" },
} as const satisfies Record<string, Flag>;

export function usage(): string {
  const names = Object.entries(flags).map(
    ([name, flag]: [string, Flag]) => [`--${name}${flag.value ? ` ${flag.value}` : ""}`, flag] as const,
  );
  const width = Math.max(...names.map(([name]) => name.length));
  const row = ([name, { help, on }]: readonly [string, Flag]): string => `  ${name.padEnd(width)}  ${on ? `${on}: ` : ""}${help}`;
  return `npm run bench -- [FILTER…] [flags]

FILTER is a regular expression on case names, what/config/dtype/mode: gemm/…, grouped/…, attention/…, head/…, layer/…, step/…,
adamw/… A case runs when one of the filters matches; without a filter every case runs.

${names.map(row).join("\n")}
`;
}

export interface Options {
  readonly action: "help" | "list" | "describe" | "run" | "report";
  readonly device: DeviceKind;
  readonly on: Backend;
  readonly filter: RegExp;
  readonly tiny: boolean;
  readonly json: string | null;
  readonly peer: string | null;
  readonly variants: RegExp;
  readonly threads: number;
  readonly rounds: number;
  readonly seconds: number;
  readonly headline: boolean;
  readonly peers: "headline" | "all" | "none";
  readonly markdown: string | null;
  readonly from: readonly string[];
}

type Values = Partial<Record<keyof typeof flags, string | boolean>>;

function parse(argv: readonly string[]): { values: Values; filters: readonly string[] } {
  const options = Object.fromEntries(
    Object.entries(flags).map(([name, flag]: [string, Flag]) => [name, { type: flag.value ? ("string" as const) : ("boolean" as const) }]),
  );
  try {
    const { values, positionals } = parseArgs({ args: [...argv], allowPositionals: true, options });
    return { values: values as Values, filters: positionals };
  } catch (error) {
    const [first] = (error as Error).message.split(/\.?\s*\n|\. /);
    throw new ConfigError(`${first}; --help lists the flags`);
  }
}

function regexp(text: string, flag: string): RegExp {
  try {
    return new RegExp(text);
  } catch (error) {
    throw new ConfigError(`${flag}: expected a regular expression, found "${text}" (${(error as Error).message})`);
  }
}

function number(values: Values, name: "threads" | "rounds" | "seconds", preset: number): number {
  const text = values[name] ?? String(preset);
  const n = Number(text);
  const whole = name !== "seconds";
  if (!(n > 0) || !Number.isFinite(n) || (whole && !Number.isInteger(n)))
    throw new ConfigError(`--${name}: expected a positive ${whole ? "whole " : ""}number, found "${text}"`);
  return n;
}

function file(values: Values, name: "json" | "markdown"): string | null {
  const path = values[name];
  if (typeof path !== "string") return null;
  const folder = dirname(path);
  try {
    accessSync(folder, constants.W_OK);
  } catch {
    throw new ConfigError(`--${name} ${path}: there is no folder "${folder}" that can be written`);
  }
  if (statSync(path, { throwIfNoEntry: false })?.isDirectory()) throw new ConfigError(`--${name} ${path}: expected a file, found a folder`);
  return path;
}

function peersOf(values: Values): Options["peers"] {
  const peers = values.peers ?? "headline";
  if (peers !== "headline" && peers !== "all" && peers !== "none")
    throw new ConfigError(`--peers: expected headline, all or none, found "${peers}"`);
  return peers;
}

/** @throws ConfigError in one line */
export function parseOptions(argv: readonly string[]): Options {
  const { values, filters } = parse(argv);
  const device = String(values.device ?? "cpu");
  if (!/^(cpu|cuda(:\d{1,4})?)$/.test(device)) throw new ConfigError(`--device: expected cpu, cuda or cuda:N, found "${device}"`);
  const on: Backend = device === "cpu" ? "cpu" : "cuda";
  for (const [name, flag] of Object.entries(flags) as [keyof typeof flags, Flag][])
    if (flag.on && flag.on !== on && values[name] !== undefined)
      throw new ConfigError(`--${name} belongs to --device ${flag.on}, found ${device}`);
  for (const name of ["json", "peer", "variants", "rounds"] as const)
    if (on === "cpu" && values.tiny === true && values[name] !== undefined)
      throw new ConfigError(`--${name} and --tiny exclude each other: on the CPU nothing is timed`);
  return {
    action: values.help ? "help" : values.list ? "list" : values.describe ? "describe" : values.from !== undefined ? "report" : "run",
    device: device as DeviceKind,
    on,
    filter: regexp(filters.join("|") || ".", "FILTER"),
    tiny: values.tiny === true,
    json: file(values, "json"),
    peer: typeof values.peer === "string" ? values.peer : null,
    variants: regexp(String(values.variants ?? "."), "--variants"),
    threads: threadCount(number(values, "threads", threadsHere)),
    rounds: number(values, "rounds", 12),
    seconds: number(values, "seconds", 2),
    headline: values.headline === true,
    peers: peersOf(values),
    markdown: file(values, "markdown"),
    from: typeof values.from === "string" ? values.from.split(",") : [],
  };
}
