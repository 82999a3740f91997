// openCheckpoint as programs call it: by a directory, or by a name on the hub.

import { optionsArgument, pathArgument } from "../arguments.ts";
import type { Checkpoint } from "../files/checkpoint.ts";
import { openCheckpoint as openFolder } from "../files/checkpoint.ts";
import { modelFolder } from "./folder.ts";
import type { PullTask } from "./pull.ts";

/**
 * Opens a checkpoint from its headers: a directory, or org/name[@revision] on the Hugging Face Hub.
 * @throws ConfigError config.json is missing or broken · LayoutError the weights are not what they claim · IoError · what pullModel throws
 */
export async function openCheckpoint(model: string, task: PullTask = {}): Promise<Checkpoint> {
  pathArgument(model, "openCheckpoint: dir");
  return openFolder(await modelFolder(model, optionsArgument(task, "openCheckpoint: task")));
}
