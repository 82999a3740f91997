// Rates of this machine, kept from one plan to the next in the user's cache folder.

import { createHash } from "node:crypto";
import { cpus, homedir } from "node:os";
import { join } from "node:path";
import { readFile } from "node:fs/promises";
import { makeFolder, writeFileAtomic } from "../files/atomic.ts";
import { native, packageRoot } from "../native.ts";
import type { Device } from "../tensor.ts";
import type { Rates } from "./calibrate.ts";

/** Where rates of this device lie: one file for each processor, instruction set, number of threads and version. */
export async function ratesFile({ info }: Device): Promise<string> {
  const root = process.env["XDG_CACHE_HOME"] || join(homedir(), ".cache");
  const parts = [cpus()[0]?.model ?? "", info.backend, info.name, info.instructionSet, info.threads, native.abi, await version()];
  return join(root, "esft", `rates-${createHash("sha256").update(JSON.stringify(parts)).digest("hex").slice(0, 16)}.json`);
}

async function version(): Promise<unknown> {
  const text = await readFile(join(packageRoot, "package.json"), "utf8").catch(() => "{}");
  return (JSON.parse(text) as { version?: unknown }).version;
}

/** None where there is no file, or one that cannot be read: it is measured anew. */
export async function loadRates(file: string): Promise<Rates> {
  try {
    const value: unknown = JSON.parse(await readFile(file, "utf8"));
    const ok = Object.entries(value as object).filter(([, rate]) => typeof rate === "number" && rate >= 0);
    return Object.fromEntries(ok) as Rates;
  } catch {
    return {};
  }
}

/** A folder that cannot be written is no reason to fail. */
export async function saveRates(file: string, rates: Rates): Promise<void> {
  await makeFolder(join(file, ".."))
    .then(() => writeFileAtomic(file, JSON.stringify(rates)))
    .catch(() => undefined);
}
