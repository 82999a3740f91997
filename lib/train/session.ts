// The model as a training run sees it: what a run reads, trains and asks for, and nothing else. MoeModel is one.

import type { Checkpoint } from "../files/checkpoint.ts";
import type { BaseIdentity } from "../files/hash.ts";
import type { ModelSpec } from "../model/spec.ts";
import type { Transformer } from "../model/transformer.ts";
import type { Parameters } from "../model/weights/parameters.ts";
import type { LongTask } from "../task.ts";
import type { Device } from "../tensor.ts";
import type { Tokenizer } from "../text/tokenizer.ts";

export interface TrainSession {
  /** The checkpoint's directory, and its name. */
  readonly dir: string;
  readonly name: string;
  /** The commit of a model of the hub. */
  readonly revision: string | null;
  readonly spec: ModelSpec;
  readonly checkpoint: Checkpoint;
  readonly device: Device;
  readonly transformer: Transformer;
  readonly params: Parameters;
  /** @throws ConfigError there is none, or it has ids beyond the vocabulary */
  tokenizer(): Promise<Tokenizer>;
  /** Tells this base from any other. */
  identity(task?: LongTask): Promise<BaseIdentity>;
  /** Greedy answers to prompts with the values as they are now; the run has the model to itself. `capacity`: tokens of a pass. */
  continuations(
    prompts: readonly (readonly number[])[],
    options: { readonly maxTokens: number; readonly capacity: number; readonly signal?: AbortSignal | undefined },
  ): Promise<readonly (readonly number[])[]>;
}
