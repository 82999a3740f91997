// What a run delivers: the trained tensors as an adapter in its directory, the best one by held-out loss or the last. While it
// runs, best/ keeps the adapter with the lowest held-out loss so far.

import { Adapter } from "../adapter/adapter.ts";
import { frozenDigest } from "../adapter/digest.ts";
import { isAdapterDir } from "../adapter/folder.ts";
import { parameterTensor } from "../adapter/tensors.ts";
import type { AdapterTensor, AttachedTensor } from "../adapter/tensors.ts";
import type { FileShare } from "../data/mixture.ts";
import { AbortError, LayoutError, NonFiniteError } from "../errors.ts";
import { encodeFloats } from "../files/floats.ts";
import type { BaseIdentity } from "../files/hash.ts";
import { LiveRanks } from "../methods/live_ranks.ts";
import type { TrainableSpec } from "../methods/method.ts";
import type { TrainOptions } from "../options.ts";
import { DequantisedCheckpoint } from "../quantised.ts";
import type { LongTask } from "../task.ts";
import { bestDir, keptStates, pruneBest, readRun } from "./checkpoint.ts";
import type { ExpertRanks, RankSummary } from "./reallocation_state.ts";
import type { TrainSession } from "./session.ts";
import type { TrainSummary } from "./trainer.ts";

/** What an adapter is made from, while its parameters train. */
export interface Delivery {
  readonly session: TrainSession;
  readonly trainable: TrainableSpec;
  readonly options: TrainOptions;
  readonly identity: BaseIdentity;
  readonly outDir: string;
  /** Of several files of rows: what each gives to an epoch. */
  readonly files?: readonly FileShare[] | undefined;
}

/** Keeps the trained values of now as the best so far, beside those that kept states name. */
export async function keepBest(delivery: Delivery, step: number, ranks: RankSummary | null = null): Promise<void> {
  if (delivery.options.keep !== "best") return;
  await delivery.session.checkpoint.files.requireUnchanged();
  await makeAdapter(delivery, { step, ranks }).save(bestDir(delivery.outDir, step));
}

/** Is the best adapter that a checkpoint names there and whole? @throws LayoutError */
export async function checkBest({ options, outDir }: Delivery, best: TrainSummary["best"]): Promise<void> {
  if (options.keep === "best" && best !== null && best.step > 0) await loadBest(outDir, best.step);
}

/**
 * Writes the adapter of a finished run to its directory. @returns null when the signal fired while the frozen weights were hashed:
 * all steps are done and kept, a resumed run delivers
 * @throws LayoutError the best adapter is not the one of this run · IoError
 */
export async function deliver(
  delivery: Delivery,
  summary: TrainSummary,
  warn: (message: string) => void,
  task: LongTask,
): Promise<Adapter | null> {
  const { session, trainable, options, outDir } = delivery;
  let digest: string;
  try {
    const trained = trainable.keys.map((key) => session.params.byName(key)!.ref);
    using base = new DequantisedCheckpoint(session.checkpoint);
    digest = await frozenDigest(base, trained, task);
  } catch (error) {
    if (error instanceof AbortError) return null;
    throw error;
  }
  const deleted = await session.checkpoint.files.requireUnchanged();
  if (deleted.length > 0)
    warn(
      `weight files of the model were deleted while it was in use (${deleted.slice(0, 3).join(", ")}${deleted.length > 3 ? " …" : ""}): ` +
        "the adapter is whole, but needs them again",
    );
  const best = options.keep === "best" ? summary.best : null;
  if (best?.step === 0) warn("the held-out loss never fell below the base model's; the adapter is that of the last step");
  const kept = best !== null && best.step > 0 && best.step < summary.step ? await loadBest(outDir, best.step) : null;
  const adapter = kept
    ? withValuesOf(makeAdapter(delivery, { ...summary, step: best!.step, ranks: ranksOf(kept, summary.ranks) }, digest), kept)
    : makeAdapter(delivery, summary, digest);
  const named = options.keep === "best" ? await namedByStates(outDir) : new Set<number>();
  named.delete(best?.step ?? summary.step);
  for (const step of named) await rescue(outDir, step);
  await adapter.save(outDir);
  await pruneBest(outDir, named);
  return Adapter.load(outDir);
}

/** Ranks of an adapter of this run that was kept while they moved. */
function ranksOf({ method, training }: Adapter, summary: RankSummary | null): RankSummary | null {
  return summary && { ranks: method["expertRanks"] as ExpertRanks, history: training?.["reallocations"] as RankSummary["history"] };
}

/** Steps of the best adapters that the kept states name: one of them may be gone back to. */
async function namedByStates(outDir: string): Promise<Set<number>> {
  const runs = await Promise.all((await keptStates(outDir)).map((k) => readRun(k).catch(() => null)));
  return new Set(runs.flatMap((run) => (run?.best && run.best.step > 0 ? [run.best.step] : [])));
}

/** The adapter in outDir is about to be replaced: where it is the only copy of a best one that is still named, it moves to best/. */
async function rescue(outDir: string, step: number): Promise<void> {
  if (await isAdapterDir(bestDir(outDir, step))) return;
  const best = await loadBest(outDir, step).catch(() => null);
  await best?.save(bestDir(outDir, step));
}

/** The trained values are those of `best`; all that is said of them is of this run. */
function withValuesOf(adapter: Adapter, best: Adapter): Adapter {
  const from = <T extends AdapterTensor | AttachedTensor>(tensors: ReadonlyMap<string, T>): T[] =>
    [...tensors].map(([key, t]) => ({ ...t, read: () => best.read(key) }));
  return adapter.with({ tensors: from(adapter.tensors), attached: from(adapter.attached) });
}

/** The adapter of step `step`; where the run was finished once before (and resumed, perhaps with more steps), it is the delivered one. */
async function loadBest(outDir: string, step: number): Promise<Adapter> {
  const dir = (await isAdapterDir(bestDir(outDir, step))) ? bestDir(outDir, step) : outDir;
  const fail = (found: string, cause?: unknown): never => {
    throw new LayoutError(
      `${dir}: expected the best adapter, that of step ${step}, found ${found}; train again, or resume with --keep last`,
      { where: { file: dir }, cause },
    );
  };
  if (!(await isAdapterDir(dir))) fail("none");
  const best = await Adapter.load(dir).catch((error: unknown) => {
    if (error instanceof LayoutError || error instanceof NonFiniteError) return fail(`a damaged one (${error.message})`, error);
    throw error;
  });
  const found = best.training?.["step"];
  if (found !== step) fail(`that of step ${JSON.stringify(found)}`);
  return best;
}

/** What goes into the manifest: the same for the same run, whenever and however often it was interrupted. */
function facts({ options, files }: Pick<Delivery, "options" | "files">, summary: Partial<TrainSummary>): Record<string, never> {
  const { best, firstEval, lastEval, step, tokens, ranks, extensions = [], stopped } = summary;
  const reallocations = ranks?.history;
  const extended = extensions.length > 0 ? extensions : undefined;
  const said = { options, files, step, tokens, best, firstEval, lastEval, extended, stopped: stopped ?? undefined, reallocations };
  return JSON.parse(JSON.stringify(said)) as Record<string, never>;
}

function makeAdapter({ session, trainable, options, identity, files }: Delivery, summary: Partial<TrainSummary>, digest?: string): Adapter {
  const { params, name, revision } = session;
  const tensors = trainable.keys.map((key) => {
    const p = params.byName(key)!;
    const isQuantised = p.weight.packed !== null && p.weight.packed.of.packed !== null;
    const dtype = options.adapterDtype === "base" && (p.stored === "bf16" || isQuantised) ? "BF16" : "F32";
    return parameterTensor(p.weight, { dtype, read: async () => encodeFloats(await params.inFileOrder(p, p.master!), dtype) });
  });
  const { reallocation } = trainable;
  const live = reallocation && summary.ranks ? new LiveRanks(reallocation, summary.ranks.ranks) : null;
  const attached = (trainable.attachments?.parameters ?? []).flatMap(({ key, shape, place, target }): AttachedTensor[] => {
    const { master } = params.attached(key);
    const whole = { name: key, layer: place.layer, target, dtype: "F32" as const };
    const cut = live?.of(key);
    if (!cut) return [{ ...whole, shape, read: async () => encodeFloats(await master!.readF32(), "F32") }];
    return cut.rank === 0
      ? []
      : [{ ...whole, shape: cut.shape, read: async () => encodeFloats(cut.values(await master!.readF32()), "F32") }];
  });
  return new Adapter({
    method: { type: trainable.type, ...trainable.options, ...(live ? { expertRanks: live.words(session.spec) } : {}) },
    base: { name, ...(revision === null ? {} : { revision }), identity },
    experts: trainable.experts,
    tensors,
    attached,
    training: facts({ options, files }, summary),
    ...(digest ? { frozenDigest: digest } : {}),
  });
}
