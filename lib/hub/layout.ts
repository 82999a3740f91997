// The cache that this package and Python's huggingface_hub share:
//
//   CACHE/models--org--name/
//     blobs/HASH             contents, by sha256 (large files) or git's hash of them; HASH.incomplete while they come
//     refs/main              the commit that a branch or a tag was at when it was last asked for
//     snapshots/COMMIT/FILE  links to ../../blobs/HASH
//   CACHE/.locks/models--org--name/
//
// A snapshot is a model's directory as any other.

import { stat } from "node:fs/promises";
import { join, resolve, sep } from "node:path";
import { readTextFile } from "../files/regular.ts";
import { isCommit } from "./reference.ts";
import type { HubReference } from "./reference.ts";
import { hubSettings } from "./settings.ts";

const folderName = (id: string): string => `models--${id.replace("/", "--")}`;

export const repoFolder = (cache: string, id: string): string => join(cache, folderName(id));
export const lockFolder = (cache: string, id: string): string => join(cache, ".locks", folderName(id));
export const snapshotFolder = (cache: string, id: string, commit: string): string => join(repoFolder(cache, id), "snapshots", commit);
export const blobFile = (cache: string, id: string, hash: string): string => join(repoFolder(cache, id), "blobs", hash);
export const refFile = (cache: string, id: string, revision: string): string => join(repoFolder(cache, id), "refs", revision);

const SNAPSHOT = /[\\/]models--([^\\/]+?)--([^\\/]+)[\\/]snapshots[\\/]([0-9a-f]{40})[\\/]?$/;

/** The model and the commit whose snapshot a directory is, by its path; null: it is none. */
export function snapshotOf(dir: string): { readonly id: string; readonly commit: string } | null {
  const [, org, name, commit] = SNAPSHOT.exec(resolve(dir)) ?? [];
  return commit === undefined ? null : { id: `${org}/${name}`, commit };
}

/** How a directory is named so that it can be found again: a snapshot of this user's cache as org/name@commit, which may be fetched anew. */
export function lastingName(dir: string): string {
  const found = snapshotOf(dir);
  return found !== null && resolve(dir).startsWith(hubSettings().cache + sep) ? `${found.id}@${found.commit}` : dir;
}

/** The commit that a revision is, as far as the cache knows; null: it does not. */
export async function knownCommit(cache: string, { id, revision }: HubReference): Promise<string | null> {
  if (isCommit(revision)) return revision;
  const commit = (await readTextFile(refFile(cache, id, revision), 1000).catch(() => "")).trim();
  return isCommit(commit) ? commit : null;
}

/** A file of `bytes` bytes, where that is known, is there whole; through links. */
export async function isThere(path: string, bytes?: number): Promise<boolean> {
  const found = await stat(path).catch(() => null);
  return found?.isFile() === true && (bytes === undefined || found.size === bytes);
}
