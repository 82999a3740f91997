// esft doctor: this machine, this installation; and where a selection came from.

import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { arch, cpus, freemem, platform, release, totalmem } from "node:os";
import type { Command } from "@commander-js/extra-typings";
import { ConfigError, KernelError } from "../errors.ts";
import { diagnoseSelection } from "../experts/diagnose.ts";
import { ExpertSet } from "../experts/expert_set.ts";
import { Profile } from "../experts/profile.ts";
import { usableProcessors } from "../tensor/threads.ts";
import { CheckFailed } from "./common.ts";
import { bytes, pairs, table } from "../format.ts";
import { packageJson, root } from "./package.ts";
import type { Terminal } from "./terminal.ts";

export function registerDoctor(program: Command, terminal: Terminal): void {
  const doctor = program
    .command("doctor")
    .description("this machine and installation: platform, addon, instruction set, threads, memory, CUDA")
    .option("--json", "print JSON")
    .addHelpText(
      "after",
      "\nExamples:\n  esft doctor\n  esft doctor selection law.profile.json expert_cfg.json     # which rule made this selection?",
    )
    .action(async (flags) => {
      const found = await examine();
      const { addon } = found;
      if (flags.json) terminal.json(found);
      else
        terminal.print(
          pairs([
            ["node", `${found.node} (${found.nodeOk ? "supported" : `NOT supported: needs ${found.nodeWanted}`})`],
            ["platform", `${found.platform}-${found.arch}, ${found.libc}, kernel ${found.kernel}`],
            ["processor", `${found.processor}, ${found.processors} usable`],
            ["memory", `${bytes(found.memoryBytes)}, ${bytes(found.freeBytes)} free`],
            ["addon", addon.ok ? `${addon.path} (ABI ${addon.abi}, ${addon.ops} ops)` : `NOT LOADED: ${addon.message}`],
            ...(addon.ok
              ? ([
                  ["instructions", instructionsLine(addon)],
                  ["threads", addon.threads],
                ] as const)
              : []),
            ["CUDA", cudaLine(found.cuda)],
          ]),
        );
      if (!addon.ok || !found.nodeOk) throw new CheckFailed("doctor");
    });
  doctor
    .command("selection")
    .description("which rule made this expert set from this profile? Recognises sets normalised over the wrong axis")
    .argument("<profile>", "output of esft profile")
    .argument("<experts>", "expert set or expert_cfg.json")
    .option("--json", "print JSON")
    .exitOverride()
    .action(async (profileFile, expertsFile, own) => {
      const flags = { ...doctor.opts(), ...own };
      const diagnosis = diagnoseSelection(await ExpertSet.load(expertsFile), await Profile.load(profileFile));
      if (flags.json) terminal.json(diagnosis);
      else {
        terminal.print(`${diagnosis.verdict}: ${diagnosis.message}`);
        terminal.print(
          table(
            ["score", "normalisation", "layers explained", "p"],
            diagnosis.hypotheses.map((h) => [
              h.score,
              h.normalization,
              `${h.layersExplained} of ${h.layers}`,
              h.p ? `(${h.p.above.toFixed(4)}, ${h.p.upTo.toFixed(4)}]` : "–",
            ]),
            { left: [1] },
          ),
        );
      }
      if (diagnosis.verdict === "axis-0") throw new CheckFailed("selection");
    });
}

async function examine() {
  const { version, engines } = packageJson();
  const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
  return {
    esft: version,
    node: process.version,
    nodeOk: (major === 20 && minor >= 19) || (major === 22 && minor >= 12) || major >= 24,
    nodeWanted: engines.node,
    platform: platform(),
    arch: arch(),
    libc: libc(),
    kernel: release(),
    processor: cpus()[0]?.model.trim() ?? "unknown",
    processors: usableProcessors(),
    memoryBytes: totalmem(),
    freeBytes: freemem(),
    addon: await examineAddon(),
    cuda: await examineCuda(),
  };
}

async function examineCuda() {
  const driver = await readFile("/proc/driver/nvidia/version", "utf8").then(
    (text) => /Kernel Module[^0-9]*(\d+(?:\.\d+)+)/.exec(text)?.[1] ?? null,
    () => null,
  );
  try {
    const { native } = await import("../native.ts");
    const { describeCuda } = await import("../device.ts");
    return { ...describeCuda(native.cudaLibraryPath()), driver };
  } catch (error) {
    if (error instanceof KernelError) return { loaded: false, library: "", devices: [], reason: "the addon is not loaded", driver };
    throw error;
  }
}

function cudaLine({ devices, reason, driver }: Awaited<ReturnType<typeof examineCuda>>): string {
  if (devices.length === 0) return `not available: ${reason}`;
  const shown = devices.map((d) => {
    const which = devices.length > 1 ? `cuda:${d.index} ` : "";
    return `${which}${d.name}, ${d.instructionSet}${d.emulated ? " (emulated on the CPU)" : ""}, ${bytes(d.memoryBytes)}, ${bytes(d.memoryFree)} free`;
  });
  return shown.join("; ") + (driver === null ? "" : `; driver ${driver}`);
}

async function examineAddon() {
  try {
    const { native } = await import("../native.ts");
    const { Device } = await import("../tensor.ts");
    const override = process.env.ESFT_NATIVE;
    const path = override ?? (createRequire(import.meta.url)("node-gyp-build") as { resolve: (root: string) => string }).resolve(root);
    using device = new Device();
    const { instructionSet, threads, bf16Compute } = device.info;
    return {
      ok: true as const,
      path,
      abi: native.abi,
      ops: native.ops.length,
      instructionSet,
      instructionSets: native.instructionSets,
      forced: process.env.ESFT_ISA ?? null,
      threads,
      bf16Compute,
    };
  } catch (error) {
    if (error instanceof ConfigError) throw error; // a variable that is wrong, not the addon
    return { ok: false as const, message: error instanceof Error ? error.message : String(error) };
  }
}

type Addon = Extract<Awaited<ReturnType<typeof examineAddon>>, { ok: true }>;

function instructionsLine({ instructionSet, instructionSets, forced, bf16Compute }: Addon): string {
  const why = forced ? ` (ESFT_ISA=${forced})` : "";
  return `${instructionSet}${why}; available: ${instructionSets.join(", ")}; bf16 products: ${bf16Compute ? "yes" : "no"}`;
}

function libc(): string {
  if (platform() !== "linux") return "no libc of its own";
  const report = process.report?.getReport() as { header?: { glibcVersionRuntime?: string } } | undefined;
  const glibc = report?.header?.glibcVersionRuntime;
  return glibc ? `glibc ${glibc}` : "musl";
}
