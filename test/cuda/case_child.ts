// One case in a process of its own, for what is read once or ends a device: node --import tsx test/cuda/case_child.ts NAME runs the first
// case whose name begins so on the device "cuda" and prints what came of it as one line of JSON. `runCase` starts it.

import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { KernelError } from "../../lib/errors.ts";
import { Device } from "../../lib/tensor.ts";
import { attentionTileCases } from "../ops/cases/attention.ts";
import { groupedGemmTileCases } from "../ops/cases/grouped_gemm.ts";
import { bf16Args } from "../ops/bf16_args.ts";
import { Random } from "../ops/host.ts";
import { Call } from "../ops/support.ts";

interface Outcome {
  /** The error's message, null without one. */
  readonly submitted: string | null;
  /** Of the wait for it, and of one more call. */
  readonly waited: string | null;
  readonly again: string | null;
  readonly instructionSet: string;
  /** sha256 of the outputs; null when there was an error. */
  readonly digest: string | null;
}

/** @throws Error when the process ended otherwise: with what it printed */
export function runCase(name: string, env: Readonly<Record<string, string>>): Outcome {
  const { stdout, stderr, status, signal } = spawnSync(process.execPath, ["--import", "tsx", fileURLToPath(import.meta.url), name], {
    cwd: path.resolve(import.meta.dirname, "../.."),
    encoding: "utf8",
    env: { ...process.env, ...env },
  });
  if (status !== 0) throw new Error(`${signal ?? status}: ${stderr}`);
  return JSON.parse(stdout) as Outcome;
}

async function messageOf(work: () => unknown): Promise<string | null> {
  try {
    await work();
    return null;
  } catch (error) {
    if (!(error instanceof KernelError)) throw error;
    return error.message;
  }
}

async function main(name: string): Promise<void> {
  const found = [...groupedGemmTileCases, ...attentionTileCases].find((c) => `${c.op}: ${c.name}`.startsWith(name));
  if (!found) throw new Error(`there is no case ${name}`);
  const device = new Device({ kind: "cuda" });
  const call = new Call(device, found.op, bf16Args(found.op, found.args(new Random(found.name))));
  const submitted = await messageOf(() => call.submit());
  const waited = await messageOf(() => device.synchronize());
  let digest: string | null = null;
  if (!submitted && !waited) {
    const hash = createHash("sha256");
    for (const { bytes } of await call.outputs()) hash.update(bytes);
    digest = hash.digest("hex");
  }
  const again = await messageOf(() => (call.submit(), device.synchronize()));
  const { instructionSet } = device.info;
  console.log(JSON.stringify({ submitted, waited, again, instructionSet, digest } satisfies Outcome));
  process.exit(0);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main(process.argv[2] ?? "");
