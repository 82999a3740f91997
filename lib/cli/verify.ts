// esft verify: is this adapter whole and made for this base; is this merged model base + adapter and nothing else?

import { readdir } from "node:fs/promises";
import type { Command } from "@commander-js/extra-typings";
import { ConfigError, IoError, LayoutError, NonFiniteError } from "../errors.ts";
import { isAdapterDir } from "../adapter/folder.ts";
import { openAdapter } from "../convert/open.ts";
import { isPeftFolder } from "../convert/peft_config.ts";
import { frozenDigest } from "../adapter/digest.ts";
import { openCheckpoint } from "../files/checkpoint.ts";
import type { Checkpoint } from "../files/checkpoint.ts";
import { checkpointSpec } from "../model/families/index.ts";
import { Adapter } from "../adapter/adapter.ts";
import type { MergeReport } from "../adapter/verify_merge.ts";
import type { LogitsCheck } from "../logits_check.ts";
import type { ExpertSet } from "../experts/expert_set.ts";
import type { LongTask } from "../task.ts";
import { bestDir, keptBest, keptStates, verifyState } from "../train/checkpoint.ts";
import { hubReference } from "../hub/reference.ts";
import { verifyRequest } from "../train/request.ts";
import { byteProgress, CheckFailed } from "./common.ts";
import { bytes, count } from "../format.ts";
import { adapterDir, MODEL, modelDir } from "./hub.ts";
import type { Terminal } from "./terminal.ts";

interface Check {
  readonly name: string;
  readonly ok: boolean;
  readonly detail: string;
}

export function registerVerify(program: Command, terminal: Terminal): void {
  program
    .command("verify")
    .description("check an adapter (hashes, base, frozen-weight digest) or a merged model (bit-equal outside the trained experts)")
    .argument(
      "<dir>",
      "adapter (a directory, or org/name on the hub), run directory (its checkpoints too), or merged model directory (then --base and --adapter are needed)",
    )
    .option("--base <model>", `base: ${MODEL}`)
    .option("--adapter <dir>", "adapter that was merged")
    .option("--no-logits", "skip comparing logits (merged models)")
    .option("--tensors", "list every trained tensor")
    .option("--json", "print JSON")
    .addHelpText(
      "after",
      "\nExamples:\n  esft verify out/law --base ./OLMoE-1B-7B\n  esft verify ./OLMoE-law --base ./OLMoE-1B-7B --adapter out/law --json",
    )
    .action(async (word, flags) => {
      const dir = hubReference(word) === null ? word : await adapterDir(word, terminal);
      const task = { signal: terminal.signal, onProgress: byteProgress(terminal) };
      const base = flags.base === undefined ? null : await openCheckpoint(await modelDir(flags.base, terminal));
      if (base) checkpointSpec(base);
      const names = await readdir(dir).catch((): string[] => []);
      const foreign = names.includes("expert_cfg.json") || isPeftFolder(names);
      const isOwn = await isAdapterDir(dir);
      const checks: Check[] = [];
      const check = (name: string, ok: boolean, detail: string): unknown => checks.push({ name, ok, detail });
      let adapter: Adapter | null = null;
      let report: MergeReport | null = null;
      const run = await runChecks(dir, task);
      checks.push(...run);
      if (isOwn || (foreign && flags.adapter === undefined)) {
        if (flags.adapter !== undefined) throw new ConfigError(`verify: ${dir} is an adapter; --adapter belongs to a merged model`);
        adapter = await openAdapter(dir, { ...task, ...(base ? { base } : {}) });
        const tensors = `${adapter.tensors.size + adapter.attached.size} tensors, ${count(adapter.parameters)} parameters, ${bytes(adapter.bytes)}`;
        check("tensors", true, `${tensors}: ${!isOwn ? "all finite" : "sha256 as in the manifest, all finite"}`);
        if (base) {
          const { identity } = adapter.base;
          const made = identity && `made for this base (${identity.fingerprint.slice(0, 16)})`;
          check("base", true, made ?? "names and shapes fit this base (the adapter records no identity)");
          check("digest", ...(await digestCheck(adapter, base, "the base", task)));
        }
      } else if (run.length === 0 || flags.adapter !== undefined) {
        if (flags.adapter === undefined || !base)
          throw new ConfigError(`verify: ${dir} is not an adapter; a merged model needs --base DIR and --adapter DIR`, {
            where: { file: dir },
          });
        const { foldAdapter } = await import("../convert/fold.ts");
        const given = await openAdapter(await adapterDir(flags.adapter, terminal), { base, ...task });
        adapter = foldAdapter(base, given);
        const { verifyMerge } = await import("../convert/merge.ts");
        report = await verifyMerge(base, adapter, dir, task);
        const equal = `${report.untouched} of ${report.tensors} tensors bit-equal to the base, ${report.slices.length} trained parts bit-equal to the adapter`;
        check("bits", report.ok, report.ok ? equal : report.mismatches.slice(0, 5).join("; "));
        if (report.ok) {
          // What LoRA was trained beside is the base as a whole; a merge leaves it nowhere.
          if (given.attached.size > 0) check("digest", ...(await digestCheck(given, base, "the base", task)));
          else check("digest", ...(await digestCheck(adapter, await openCheckpoint(dir), "the merged model", task)));
          if (flags.logits) {
            const { checkMergedLogits } = await import("../logits_check.ts");
            const logits = await checkMergedLogits(base.dir, adapter, dir, { signal: terminal.signal });
            check("logits", logits.ok, logitsText(logits).replace(/^logits: /, ""));
          }
        }
      }
      const ok = checks.every((c) => c.ok);
      const tensors = [...(adapter?.tensors ?? []), ...(adapter?.attached ?? [])].map(([key, { dtype, shape }]) => ({ key, dtype, shape }));
      if (flags.json) {
        const experts = adapter?.experts?.toJSON() ?? null;
        terminal.json({ ok, dir, checks, experts, changedExperts: report?.changedExperts ?? null, tensors });
      } else {
        for (const c of checks) terminal.print(`${c.ok ? "ok    " : "FAILED"} ${c.name.padEnd(7)} ${c.detail}`);
        if (report && adapter) terminal.print(deltaText(report, adapter));
        else if (adapter?.experts) terminal.print(`trains ${adapter.experts.count} experts: ${planText(adapter.experts)}`);
        if (flags.tensors) for (const t of tensors) terminal.print(`  ${t.key} ${t.dtype} [${t.shape.join(", ")}]`);
      }
      if (!ok) throw new CheckFailed("verification failed");
    });
}

/** Of a run directory: is what a resumed run would read as it was written? None for other directories. */
async function runChecks(dir: string, task: LongTask): Promise<Check[]> {
  const states = await keptStates(dir);
  if (states.length === 0) return [];
  const checked = async (name: string, detail: string, work: Promise<unknown>): Promise<Check> =>
    work.then(
      () => ({ name, ok: true, detail }),
      (error: unknown) => {
        if (error instanceof LayoutError || error instanceof IoError || error instanceof NonFiniteError)
          return { name, ok: false, detail: error.message };
        throw error;
      },
    );
  const checks: Check[] = [];
  for (const s of states) checks.push(await checked("state", `step ${s.step}: every byte as it was saved`, verifyState(s)));
  checks.push(await checked("request", "request.json and experts.json as they were written", verifyRequest(dir)));
  for (const step of await keptBest(dir))
    checks.push(await checked("best", `adapter of step ${step}: sha256 as in its manifest`, Adapter.load(bestDir(dir, step), task)));
  return checks;
}

/** Are the frozen weights those of training? With the words for it. */
async function digestCheck(adapter: Adapter, source: Checkpoint, what: string, task: LongTask): Promise<readonly [boolean, string]> {
  const { DequantisedCheckpoint } = await import("../quantised.ts"); // loads the addon, which other commands must do without
  using dequantised = new DequantisedCheckpoint(source);
  const found = await frozenDigest(dequantised, adapter.tensors.values(), task);
  const expected = adapter.frozenDigest;
  const [weights, short] = [`frozen weights of ${what}`, found.slice(0, 16)];
  if (expected === undefined) return [true, `${weights}: ${short} (the adapter records none to compare with)`];
  if (expected === found) return [true, `${weights} are those of training (${short})`];
  return [false, `${weights}: expected ${expected}, found ${found}`];
}

const planText = ({ layers }: ExpertSet): string =>
  [...layers].map(([layer, { ids }]) => `layer ${layer}: ${ids.join(" ") || "none"}`).join("; ");

/** Changed experts beside the plan, and how far the weights moved. */
export function deltaText(report: MergeReport, adapter: Adapter): string {
  const moved = Math.sqrt(report.slices.reduce((s, x) => s + x.deltaNorm ** 2, 0));
  const size = Math.sqrt(report.slices.reduce((s, x) => s + x.baseNorm ** 2, 0));
  const norm = `trained weights moved by ${((100 * moved) / Math.max(size, 1e-30)).toPrecision(3)} % of their norm`;
  if (!adapter.experts) return norm;
  const changed = Object.values(report.changedExperts).reduce((n, ids) => n + ids.length, 0);
  const planned = adapter.experts.count;
  const still = planned - changed;
  return `experts: ${changed} changed, ${planned} planned${still === 0 ? ", the same ones" : ` (${still} kept their values)`}; ${norm}`;
}

export function logitsText(l: LogitsCheck): string {
  return l.ok
    ? `logits: all ${l.values} of ${l.rows} rows equal base + adapter bit for bit (they moved by up to ${l.maxChange.toPrecision(3)} from the base)`
    : `logits: MISMATCH: ${l.different} of ${l.values} values differ from base + adapter, by up to ${l.maxAbs.toExponential(2)}; do not use this model`;
}
