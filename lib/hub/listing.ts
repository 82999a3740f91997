// What a model on the hub consists of: the commit of a revision, and the files of that commit with sizes and hashes.

import { z } from "zod";
import { IoError } from "../errors.ts";
import type { HubClient } from "./client.ts";
import type { HubReference } from "./reference.ts";
import { isCommit, shownReference } from "./reference.ts";

/** A file and what its bytes must be. */
export interface RemoteFile {
  /** Path below the model's folder. */
  readonly path: string;
  readonly bytes: number;
  /** sha256 of the contents, or what git calls them: sha1 of "blob SIZE\0" and the contents. Also the name of the blob. */
  readonly hash: string;
}

export interface Listing {
  readonly commit: string;
  /** Files of the folder, and of those below it that were asked for. */
  readonly files: readonly RemoteFile[];
}

const Info = z.looseObject({ sha: z.string() });
const Size = z.int().min(0);
const Entry = z.looseObject({
  type: z.string(),
  path: z.string(),
  oid: z.string().optional(),
  size: Size.optional(),
  lfs: z.looseObject({ oid: z.string(), size: Size }).optional(),
});
type Entry = z.output<typeof Entry>;

/** @param folders those below the top whose files are wanted too, where they are there @throws as HubClient.get */
export async function listModel(client: HubClient, of: HubReference, folders: readonly string[], signal?: AbortSignal): Promise<Listing> {
  const api = `/api/models/${of.id}`;
  const info = Info.safeParse((await client.json(`${api}/revision/${encodeURIComponent(of.revision)}`, of, signal)).value);
  if (!info.success || !isCommit(info.data.sha)) throw strange(client, of, "the commit of the revision");
  const commit = info.data.sha;
  const list = async (folder: string): Promise<Entry[]> => {
    const entries: Entry[] = [];
    for (let at: string | null = `${api}/tree/${commit}${folder && `/${folder}`}`; at !== null;) {
      const page = await client.json(at, of, signal);
      const found = z.array(Entry).safeParse(page.value);
      if (!found.success) throw strange(client, of, "a list of files");
      entries.push(...found.data);
      at = page.next;
    }
    return entries;
  };
  const top = await list("");
  const below = top.filter((e) => e.type === "directory" && folders.includes(e.path));
  const all = [top, ...(await Promise.all(below.map((e) => list(e.path))))].flat();
  return { commit, files: all.filter((e) => e.type === "file").flatMap((e) => remoteFile(e) ?? []) };
}

/** Null: a name that would leave the folder, or no hash to check the bytes by; nothing that is needed is so. */
function remoteFile({ path, oid, size, lfs }: Entry): RemoteFile | null {
  const parts = path.split("/");
  const plain = parts.every((part) => part !== "" && !part.startsWith(".") && !/[\\:\0]/.test(part));
  const [hash, bytes] = lfs ? [lfs.oid.replace(/^sha256:/, ""), lfs.size] : [oid, size];
  if (!plain || bytes === undefined || !new RegExp(`^[0-9a-f]{${lfs ? 64 : 40}}$`).test(hash ?? "")) return null;
  return { path, bytes, hash: hash! };
}

const strange = (client: HubClient, of: HubReference, wanted: string): IoError =>
  new IoError(`${shownReference(of)}: expected ${wanted} from ${client.settings.endpoint}, found something else`, {
    where: { key: "model" },
  });
