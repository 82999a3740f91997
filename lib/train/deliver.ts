// What a run delivers: the trained tensors as an adapter in its directory, the best one by held-out loss or the last. While it
// runs, best/ keeps the adapter with the lowest held-out loss so far.

import { rm } from "node:fs/promises";
import { join } from "node:path";
import { Adapter } from "../adapter/adapter.ts";
import { frozenDigest } from "../adapter/digest.ts";
import { isAdapterDir } from "../adapter/folder.ts";
import { parameterTensor } from "../adapter/tensors.ts";
import type { AttachedTensor } from "../adapter/tensors.ts";
import { AbortError, LayoutError } from "../errors.ts";
import { encodeFloats } from "../files/floats.ts";
import type { BaseIdentity } from "../files/hash.ts";
import type { TrainableSpec } from "../methods/method.ts";
import type { TrainOptions } from "../options.ts";
import type { LongTask } from "../task.ts";
import type { TrainSession } from "./session.ts";
import type { TrainSummary } from "./trainer.ts";

/** What an adapter is made from, while its parameters train. */
export interface Delivery {
  readonly session: TrainSession;
  readonly trainable: TrainableSpec;
  readonly options: TrainOptions;
  readonly identity: BaseIdentity;
  readonly outDir: string;
}

const bestDir = (outDir: string): string => join(outDir, "best");

/** Keeps the trained values of now as the best so far. */
export async function keepBest(delivery: Delivery, step: number): Promise<void> {
  await delivery.session.checkpoint.files.requireUnchanged();
  await makeAdapter(delivery, { step }).save(bestDir(delivery.outDir));
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
    digest = await frozenDigest(session.checkpoint, trained, task);
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
  const adapter =
    best !== null && best.step > 0 && best.step < summary.step
      ? (await loadBest(outDir, best.step)).with({ training: facts(options, { ...summary, step: best.step }), frozenDigest: digest })
      : makeAdapter(delivery, summary, digest);
  await adapter.save(outDir);
  await rm(bestDir(outDir), { recursive: true, force: true });
  return Adapter.load(outDir);
}

/** The adapter of step `step`; where the run was finished once before (and resumed, perhaps with more steps), it is the delivered one. */
async function loadBest(outDir: string, step: number): Promise<Adapter> {
  const best = await Adapter.load((await isAdapterDir(bestDir(outDir))) ? bestDir(outDir) : outDir);
  const found = best.training?.["step"];
  if (found !== step)
    throw new LayoutError(
      `${outDir}: expected the best adapter of step ${step}, found ${found === undefined ? "none" : `step ${JSON.stringify(found)}`}; train again, or resume with keep "last"`,
      { where: { file: outDir } },
    );
  return best;
}

/** What goes into the manifest: the same for the same run, whenever and however often it was interrupted. */
function facts(options: TrainOptions, summary: Partial<TrainSummary>): Record<string, never> {
  const { best, firstEval, lastEval, step, tokens } = summary;
  return JSON.parse(JSON.stringify({ options, step, tokens, best, firstEval, lastEval })) as Record<string, never>;
}

function makeAdapter({ session, trainable, options, identity }: Delivery, summary: Partial<TrainSummary>, digest?: string): Adapter {
  const { params, name } = session;
  const tensors = trainable.keys.map((key) => {
    const p = params.byName(key)!;
    const dtype = options.adapterDtype === "base" && p.stored === "bf16" ? "BF16" : "F32";
    return parameterTensor(p.weight, { dtype, read: async () => encodeFloats(await p.master!.readF32(), dtype) });
  });
  const attached = (trainable.attachments?.parameters ?? []).map(({ key, shape, place, target }): AttachedTensor => {
    const { master } = params.attached(key);
    return { name: key, layer: place.layer, target, dtype: "F32", shape, read: async () => encodeFloats(await master!.readF32(), "F32") };
  });
  return new Adapter({
    method: { type: trainable.type, ...trainable.options },
    base: { name, identity },
    experts: trainable.experts,
    tensors,
    attached,
    training: facts(options, summary),
    ...(digest ? { frozenDigest: digest } : {}),
  });
}
