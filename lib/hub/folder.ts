// How a word becomes a folder, wherever a model or an adapter is taken:
//
//   1. what is there on this machine under that path wins;
//   2. else org/name or org/name@revision is a model on the Hugging Face Hub: out of the cache, or fetched into it;
//   3. else the error names both.
//
// Of a commit that is in the cache whole nothing is asked for. Of a branch or a tag the hub is asked where it is now; where it cannot be
// asked (HF_HUB_OFFLINE, no network) it is where it was last.

import { stat } from "node:fs/promises";
import { optionsArgument, pathArgument } from "../arguments.ts";
import { debug } from "../debug.ts";
import { ConfigError, IoError } from "../errors.ts";
import { finishDirectory } from "../files/atomic.ts";
import { HubUnreachable } from "./client.ts";
import { knownCommit, repoFolder, snapshotFolder } from "./layout.ts";
import { missingFiles } from "./needed.ts";
import type { Need } from "./needed.ts";
import { pull } from "./pull.ts";
import type { PullTask, Snapshot } from "./pull.ts";
import { FORM, hubReference, isCommit, requireReference, shownReference } from "./reference.ts";
import type { HubReference } from "./reference.ts";
import { hubSettings } from "./settings.ts";
import type { HubSettings } from "./settings.ts";

export interface PulledModel extends Snapshot {
  /** org/name */
  readonly id: string;
}

/**
 * Fetches a model, or an adapter, of the Hugging Face Hub into the cache that is shared with Python; what is there is not fetched again.
 * @param model org/name or org/name@revision
 * @throws ConfigError no such model, a gated one · LayoutError no files that can be used, or damaged ones · IoError no network, no room · AbortError
 */
export async function pullModel(model: string, task: PullTask = {}): Promise<PulledModel> {
  pathArgument(model, "pullModel: model");
  const asked = requireReference(model);
  const { dir, commit } = await obtain(asked, "any", optionsArgument(task, "pullModel: task"));
  return { id: asked.id, dir, commit };
}

/** The folder of a checkpoint, or of its files without the weights. @throws IoError there is none · what pullModel throws */
export const modelFolder = (word: string, task: PullTask = {}, need: "model" | "tokenizer" = "model"): Promise<string> =>
  folder(word, need, "the checkpoint", task);

/** The folder of an adapter. @throws as modelFolder */
export const adapterFolder = (word: string, task: PullTask = {}): Promise<string> => folder(word, "adapter", "the adapter", task);

async function folder(word: string, need: Need, what: string, task: PullTask): Promise<string> {
  if (await exists(word)) return word;
  await finishDirectory(word); // a save that was interrupted at its end
  if (await exists(word)) return word;
  const asked = hubReference(word);
  if (asked === null)
    throw new IoError(
      `cannot open ${what} ${word}: no such file or directory, and not the form of a model on the Hugging Face Hub (${FORM})`,
      { where: { file: word, errno: "ENOENT" } },
    );
  try {
    return (await obtain(asked, need, task)).dir;
  } catch (error) {
    const nothing = error instanceof HubUnreachable || (error instanceof ConfigError && error.where["absent"] === true);
    if (!nothing) throw error;
    // The word may have been meant either way.
    const Failure = error instanceof ConfigError ? ConfigError : HubUnreachable;
    throw new Failure(`there is no folder ${word}, and ${error.message}`, { where: { ...error.where, file: word }, cause: error });
  }
}

const exists = (path: string): Promise<boolean> => stat(path).then(() => true, (error: NodeJS.ErrnoException) => error.code !== "ENOENT" && error.code !== "ENOTDIR"); // prettier-ignore

async function obtain(asked: HubReference, need: Need, task: PullTask): Promise<Snapshot> {
  const settings = hubSettings();
  const kept = await cached(settings, asked, need);
  debug(
    "hub",
    () =>
      `${shownReference(asked)}: ${kept === null ? "not in" : `${kept.dir}, ${kept.missing.length} files missing in`} the cache ${settings.cache}`,
  );
  if (kept?.missing.length === 0 && (settings.offline || isCommit(asked.revision))) return kept;
  if (settings.offline) throw absent(settings, asked, kept, "HF_HUB_OFFLINE is set, so that nothing is fetched");
  try {
    return await pull(settings, asked, need, task);
  } catch (error) {
    if (!(error instanceof HubUnreachable)) throw error;
    if (kept?.missing.length !== 0) throw absent(settings, asked, kept, error.message, error);
    task.onNote?.(`${error.message}: ${shownReference(asked)} is taken from the cache, as it was at ${kept.commit}`);
    return kept;
  }
}

interface Kept extends Snapshot {
  readonly missing: readonly string[];
}

/** What the cache has of it; null: nothing. */
async function cached({ cache }: HubSettings, asked: HubReference, need: Need): Promise<Kept | null> {
  const commit = await knownCommit(cache, asked);
  if (commit === null) return null;
  const dir = snapshotFolder(cache, asked.id, commit);
  return (await exists(dir)) ? { dir, commit, missing: await missingFiles(need, dir) } : null;
}

/** Not in the cache, and why it is not fetched. */
function absent({ cache }: HubSettings, asked: HubReference, kept: Kept | null, why: string, cause?: unknown): HubUnreachable {
  const what = shownReference(asked);
  const first = kept?.missing.slice(0, 3).join(", ");
  const more = (kept?.missing.length ?? 0) > 3 ? ` and ${kept!.missing.length - 3} more files` : "";
  const [found, file] =
    kept === null ? [`the cache has no ${what} (${repoFolder(cache, asked.id)})`, repoFolder(cache, asked.id)] : [`${kept.dir} lacks ${first}${more} of ${what}`, kept.dir]; // prettier-ignore
  return new HubUnreachable(`${found}; ${why}`, { where: { file }, cause });
}
