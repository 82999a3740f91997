// What must not change between the parts of a run, as one hash: a checkpoint is resumed only by a run with the same one.

import type { Examples } from "../data/examples.ts";
import type { BatchStream } from "../data/stream.ts";
import { sha256 } from "../files/hash.ts";
import type { TrainableSpec } from "../methods/method.ts";
import type { Transformer } from "../model/transformer.ts";
import type { TrainOptions } from "../options.ts";

/** What a run is made of, as far as its result depends on it. */
export interface RunParts {
  readonly options: TrainOptions;
  /** Identity of the base model. */
  readonly base: string;
  readonly trainable: TrainableSpec;
  readonly heldOut: Examples | null;
  readonly model: Transformer;
}

/** With a constant schedule a resumed run may do more steps. */
export function runFingerprint({ options, base, trainable, heldOut, model }: RunParts, stream: BatchStream): string {
  const { steps, saveEvery: _, ...fixed } = options;
  return sha256(
    JSON.stringify([
      fixed,
      options.optimizer.schedule === "constant" ? null : steps,
      base,
      trainable.type,
      trainable.keys,
      stream.fingerprint,
      heldOut?.fingerprint() ?? null,
      model.precision,
      ...(Object.keys(trainable.options).length > 0 ? [trainable.options] : []), // where a method has none, hashes of earlier runs hold
    ]),
  );
}
