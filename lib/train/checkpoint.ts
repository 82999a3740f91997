// A run's full state on disk, so that a killed run resumes to the same bits: f32 masters and moments of what trains, the
// optimizer's step, the data cursor, the best held-out loss. A state is a folder that appears whole; two are kept, so that there is one
// to go back to when the newest is damaged: every byte of it is under a hash.
//
//   <outDir>/checkpoint/N-step-S/state.safetensors   master, m, v (flat)          N: number of the save
//   <outDir>/checkpoint/N-step-S/run.json            all else, the hash of state.safetensors and its own
//   <outDir>/best/step-S/                            adapters with the lowest held-out loss, as far as a kept state names them

import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { basename, join } from "node:path";
import { z } from "zod";
import { debug } from "../debug.ts";
import { IoError, LayoutError } from "../errors.ts";
import { requireSpace, writeDirectoryAtomic, writeFileAtomic } from "../files/atomic.ts";
import { disk } from "../files/disk.ts";
import { checkSchema } from "../files/json.ts";
import { openSafetensors, readChunks, readFileRange } from "../files/safetensors.ts";
import { writeSafetensors } from "../files/safetensors_writer.ts";
import { damaged, readSealedJson, sealedJson } from "../files/sealed.ts";
import { forget, removeAllStale, temporary } from "../files/temporary.ts";
import type { TrainingState } from "../model/weights/training_state.ts";
import { ioError } from "../task.ts";
import { driftSchema } from "./drift.ts";
import { waitingSchema } from "./early_stop.ts";
import { guardedSchema } from "./guard.ts";
import { reallocationSchema } from "./reallocation_state.ts";

const Hash = z.string().regex(/^[0-9a-f]{64}$/, "expected a sha256 in hex");

const Run = z.strictObject({
  format: z.literal("esft-run"),
  version: z.literal(2),
  step: z.int().min(0),
  /** The held-out loss of this step was taken (or none is due). */
  evaluated: z.boolean(),
  /** Updates skipped in a row for a non-finite gradient. */
  skipped: z.int().min(0),
  optimizerSteps: z.int().min(0),
  cursor: z.strictObject({ epoch: z.int(), row: z.int(), fingerprint: z.string() }),
  /** What must not change between the parts of a run (fingerprint.ts). */
  facts: z.record(z.string(), z.json()),
  /** Schedules that were lengthened: at which step, from how many steps to how many. */
  extensions: z.array(z.strictObject({ step: z.int(), from: z.int(), to: z.int() })),
  best: z.strictObject({ step: z.int(), loss: z.number() }).nullable(),
  firstEval: z.number().nullable(),
  lastEval: z.number().nullable(),
  /** What early stopping waits for, where the run has it. */
  waiting: waitingSchema.nullable().optional(),
  /** What the guard against forgetting has measured, where the run has one. */
  guard: guardedSchema.nullable().optional(),
  /** What the watch over the routing has counted, where the run has one. */
  drift: driftSchema.optional(),
  tokens: z.int(),
  seconds: z.number(),
  /** Averages and ranks, where they are re-allocated. */
  reallocation: reallocationSchema.optional(),
  parameters: z.array(z.strictObject({ key: z.string(), shape: z.array(z.int()), offset: z.int() })),
  stateSha256: Hash,
});
export type RunState = z.output<typeof Run>;

const STATE = "state.safetensors";
const RUN = "run.json";
const FLAT = ["master", "m", "v"] as const;
/** Elements moved at a time: 64 MiB. */
export const CHUNK = 1 << 24;
const KEPT = 2;

/** A state on disk: its folder's name says which save it was, and of which step. */
export interface KeptState {
  readonly path: string;
  readonly save: number;
  readonly step: number;
}

const checkpointDir = (outDir: string): string => join(outDir, "checkpoint");
export const bestDir = (outDir: string, step: number): string => join(outDir, "best", `step-${step}`);

/** The states of a run directory, newest first. */
export async function keptStates(outDir: string): Promise<KeptState[]> {
  const dir = checkpointDir(outDir);
  const names = await listed(dir);
  const found = names.flatMap((name) => {
    const [, save, step] = /^(\d+)-step-(\d+)$/.exec(name) ?? [];
    return save === undefined || step === undefined ? [] : [{ path: join(dir, name), save: Number(save), step: Number(step) }];
  });
  return found.sort((a, b) => b.save - a.save);
}

export async function hasCheckpoint(outDir: string): Promise<boolean> {
  return (await keptStates(outDir)).length > 0 || existsSync(join(checkpointDir(outDir), RUN));
}

/** The states of one run, as it goes on. */
export class Checkpoints {
  private readonly outDir: string;
  private readonly chunk: number;
  /** The newest state that is known to be whole, and what it says: saved or restored by this run. */
  private good: (KeptState & { readonly best: RunState["best"] }) | null = null;

  /** @param chunk elements moved at a time */
  constructor(outDir: string, chunk = CHUNK) {
    this.outDir = outDir;
    this.chunk = chunk;
  }

  /** Before the first step: is there room for the states that will be kept? @throws IoError */
  async requireSpace(state: TrainingState): Promise<void> {
    const missing = KEPT - (await keptStates(this.outDir)).length;
    if (missing > 0) await requireSpace(this.outDir, missing * bytesOf(state));
  }

  /** Writes the state; of the older ones the last good one stays. @returns its folder */
  async save(state: TrainingState, run: Omit<RunState, "format" | "version" | "parameters" | "stateSha256">): Promise<string> {
    const dir = checkpointDir(this.outDir);
    const kept = await keptStates(this.outDir);
    const bytes = bytesOf(state);
    const older = kept.filter((k) => k.path !== this.good?.path);
    // While the new one is written there are three, where there is room for three.
    if (this.good !== null && older.length > 0) await requireSpace(dir, bytes).catch(() => this.remove(older));
    const save = (kept[0]?.save ?? 0) + 1;
    const path = join(dir, `${String(save).padStart(4, "0")}-step-${run.step}`);
    await writeDirectoryAtomic(
      path,
      async (temp) => {
        const written = await writeSafetensors(join(temp, STATE), entriesOf(state, this.chunk), {
          metadata: { format: "esft-run" },
          hash: "file",
        });
        const stateSha256 = written.fileSha256!;
        const manifest: RunState = { format: "esft-run", version: 2, ...run, parameters: tableOf(state), stateSha256 };
        await writeFileAtomic(join(temp, RUN), sealedJson(manifest));
      },
      { bytes },
    );
    const before = this.good;
    this.good = { path, save, step: run.step, best: run.best };
    await this.prune([this.good, ...(before ? [before] : [])]);
    return path;
  }

  /**
   * Loads the newest state that is whole. `accept` may refuse one: by a ConfigError for good, by a LayoutError as damaged.
   * @returns what it says, and what was wrong with newer ones; null: there is none
   * @throws LayoutError none is whole · ConfigError
   */
  async restore(
    state: TrainingState,
    accept: (run: RunState) => Promise<void>,
  ): Promise<{ readonly run: RunState; readonly damages: readonly string[] } | null> {
    const dir = checkpointDir(this.outDir);
    const kept = await keptStates(this.outDir);
    if (kept.length === 0) {
      if (!existsSync(join(dir, RUN))) return null;
      throw new LayoutError(
        `${dir}: expected states in folders of their own, found one of an earlier version, which is not hashed; finish the run with that version, or train anew in another outDir`,
        { where: { file: dir } },
      );
    }
    const damages: LayoutError[] = [];
    for (const k of kept) {
      try {
        const run = await readRun(k);
        await accept(run);
        requireTable(k, run, state);
        await readState(k, run, state, this.chunk);
        this.good = { ...k, best: run.best };
        debug("resume", () => `${k.path}: goes on at step ${run.step}; ${damages.length} newer states are damaged`);
        for (const folder of [dir, join(this.outDir, "best")]) await removeAllStale(folder); // there may be nothing left to save
        return { run, damages: damages.map((d, i) => wording(d, kept[i]!, k)) };
      } catch (error) {
        damages.push(asDamage(error, k));
      }
    }
    const [first] = damages;
    throw new LayoutError(
      `${dir}: no state to go on from: ${damages.map((d) => d.message).join("; ")}. Restore these files from a copy, or train anew in another outDir`,
      { where: { ...first!.where }, cause: first },
    );
  }

  private async prune(good: readonly { readonly path: string; readonly best: RunState["best"] }[]): Promise<void> {
    const kept = await keptStates(this.outDir);
    await this.remove(kept.filter((k) => good.every((g) => g.path !== k.path)));
    await pruneBest(this.outDir, new Set(good.map((g) => g.best?.step)));
    await removeAllStale(checkpointDir(this.outDir));
  }

  private async remove(states: readonly KeptState[]): Promise<void> {
    for (const { path } of states) await removeWhole(path);
  }
}

/** Steps of the adapters in best/. */
export async function keptBest(outDir: string): Promise<number[]> {
  const names = await listed(join(outDir, "best"));
  return names.flatMap((name) => /^step-(\d+)$/.exec(name)?.slice(1).map(Number) ?? []).sort((a, b) => a - b);
}

/** Removes adapters in best/ but those of these steps. */
export async function pruneBest(outDir: string, steps: ReadonlySet<number | undefined>): Promise<void> {
  const dir = join(outDir, "best");
  for (const step of await keptBest(outDir)) if (!steps.has(step)) await removeWhole(bestDir(outDir, step));
  await removeAllStale(dir);
  await disk.rmdir(dir).catch(() => undefined); // the last one is gone
}

/** @returns none where there is no such folder */
async function listed(dir: string): Promise<string[]> {
  return disk.readdir(dir).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT" || error.code === "ENOTDIR") return [];
    throw ioError(error, `cannot read ${dir}`, { file: dir });
  });
}

/** Under another name first: nobody meets a half of it. */
async function removeWhole(path: string): Promise<void> {
  const temp = temporary(path);
  try {
    await disk.rename(path, temp);
    await disk.rm(temp, { recursive: true, force: true });
  } catch (error) {
    throw ioError(error, `cannot remove ${path}`, { file: path });
  } finally {
    forget(temp);
  }
}

/** Reads every byte of a state. @throws LayoutError it is not what was saved · IoError */
export async function verifyState(kept: KeptState): Promise<RunState> {
  const run = await readRun(kept);
  const path = join(kept.path, STATE);
  const found = await hashFile(path);
  if (found !== run.stateSha256) throw damaged(path, run.stateSha256, found);
  return run;
}

/** run.json alone, its hash checked. @throws LayoutError · IoError */
export async function readRun(kept: KeptState): Promise<RunState> {
  const path = join(kept.path, RUN);
  const { value, sealed } = await readSealedJson(path);
  if (!sealed) throw new LayoutError(`${path}: expected its sha256 at the end, found none`, { where: { file: path } });
  return checkSchema(Run, value, path);
}

const bytesOf = (state: TrainingState): number => state.size * 4 * FLAT.length;

function entriesOf(state: TrainingState, chunk: number) {
  return FLAT.map((name) => ({
    name,
    dtype: "F32" as const,
    shape: [state.size],
    data: async function* () {
      for (let at = 0; at < state.size; at += chunk) {
        using part = state[name].view(at, [Math.min(chunk, state.size - at)]);
        yield new Uint8Array(await part.readBytes());
      }
    },
  }));
}

const tableOf = (state: TrainingState): RunState["parameters"] =>
  state.parameters.map((p, i) => ({ key: p.key, shape: [...p.shape], offset: state.offsets[i]! }));

function requireTable(kept: KeptState, run: RunState, state: TrainingState): void {
  const path = join(kept.path, RUN);
  const words = (p: RunState["parameters"][number] | undefined): string =>
    p === undefined ? "none" : `${p.key} [${p.shape.join(", ")}] at ${p.offset}`;
  const wanted = tableOf(state);
  for (let i = 0; i < Math.max(wanted.length, run.parameters.length); i++) {
    const [expected, found] = [words(wanted[i]), words(run.parameters[i])];
    if (expected !== found)
      throw new LayoutError(`${path}: expected trained parameter ${i} to be ${expected}, found ${found}`, { where: { file: path } });
  }
}

/** Loads masters and moments, hashing the file on the way. @throws LayoutError it is not what was saved, or holds NaN */
async function readState(kept: KeptState, run: RunState, state: TrainingState, chunk: number): Promise<void> {
  const path = join(kept.path, STATE);
  const hash = createHash("sha256");
  let nan: string | null = null;
  try {
    const file = await openSafetensors(path);
    for (const name of FLAT) {
      const info = file.tensors.get(name);
      if (!info || info.dtype !== "F32" || info.shape.join() !== String(state.size))
        throw new LayoutError(
          `${path}: tensor "${name}" must be F32 [${state.size}], found ${info ? `${info.dtype} [${info.shape.join(", ")}]` : "nothing"}`,
          { where: { file: path, tensor: name } },
        );
    }
    hash.update(await readFileRange(path, 0, file.tensors.get(FLAT[0])!.begin));
    for (const name of FLAT) {
      let at = 0;
      for await (const bytes of file.chunks(name, chunk * 4)) {
        hash.update(bytes);
        const values = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
        if (values.includes(NaN)) nan ??= `"${name}" of ${ownerOf(run, at + values.findIndex(Number.isNaN))}`;
        using part = state[name].view(at, [values.length]);
        part.write(values);
        at += values.length;
      }
    }
  } catch (error) {
    const found = error instanceof LayoutError ? await hashFile(path) : null;
    if (found !== null && found !== run.stateSha256) throw damaged(path, run.stateSha256, found, error);
    throw error;
  }
  const found = hash.digest("hex");
  if (found !== run.stateSha256) throw damaged(path, run.stateSha256, found);
  if (nan !== null) throw new LayoutError(`${path}: expected numbers, found NaN in ${nan}`, { where: { file: path } });
}

/** The parameter that element `at` of a flat tensor belongs to. */
const ownerOf = (run: RunState, at: number): string => run.parameters.findLast((p) => p.offset <= at)!.key;

async function hashFile(path: string): Promise<string> {
  const hash = createHash("sha256");
  const { size } = await disk.stat(path);
  for await (const bytes of readChunks({ path, begin: 0, end: size })) hash.update(bytes);
  return hash.digest("hex");
}

/** A file that cannot be read is damaged too, unless it is the process that may not or cannot open files. */
function asDamage(error: unknown, kept: KeptState): LayoutError {
  if (error instanceof LayoutError) return error;
  if (!(error instanceof IoError) || ["EACCES", "EPERM", "EMFILE", "ENFILE"].includes(String(error.where["errno"]))) throw error;
  return new LayoutError(error.message, { where: { file: kept.path }, cause: error });
}

const wording = (damage: LayoutError, from: KeptState, to: KeptState): string =>
  `${damage.message}. The state of step ${from.step} (${basename(from.path)}) is not used; the run goes back to that of step ${to.step}`;
