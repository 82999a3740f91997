// Temporary entries beside what is being written. A killed process leaves them; their names say whose they are, so that the next
// writer removes those of processes that are gone, and no others.
import { createHash, randomBytes } from "node:crypto";
import { basename, dirname, join, resolve } from "node:path";
import { disk } from "./disk.ts";
import { isGone, live, thisHolder } from "./holder.ts";

/** Ids of processes mean something to those of one machine and namespace only. */
const place = (): string => {
  const { host, machine, namespace } = thisHolder();
  return createHash("sha256")
    .update(JSON.stringify([host, machine, namespace]))
    .digest("hex")
    .slice(0, 6);
};

/** A path for a temporary sibling of `path`, in use until `forget`. */
export function temporary(path: string): string {
  const { pid, start, thread } = thisHolder();
  const token = randomBytes(4).toString("hex");
  live.add(token);
  return join(dirname(resolve(path)), `.${basename(path)}.tmp-${place()}-${pid}-${start ?? ""}-${thread}-${token}`);
}

/** The entry is in its place, or its writer gave up. */
export const forget = (temp: string): void => void live.delete(temp.slice(-8));

/** Removes what gone processes left of `path`. */
export async function removeStale(path: string): Promise<void> {
  await removeLeft(dirname(resolve(path)), (name) => name === basename(path));
}

/** Removes what gone processes left in a folder. */
export async function removeAllStale(folder: string): Promise<void> {
  await removeLeft(folder, () => true);
}

async function removeLeft(folder: string, chosen: (name: string) => boolean): Promise<void> {
  for (const entry of await disk.readdir(folder).catch(() => [])) {
    const [name = "", where, pid, start, thread, token = ""] = TEMPORARY.exec(entry)?.slice(1) ?? [];
    if (where !== place() || !chosen(name)) continue;
    const holder = { ...thisHolder(), pid: Number(pid), start: start === "" ? null : Number(start), thread: Number(thread) };
    if (isGone(holder, token)) await disk.rm(join(folder, entry), { recursive: true, force: true });
  }
}

const TEMPORARY = /^\.(.*)\.tmp-([0-9a-f]{6})-(\d+)-(\d*)-(\d+)-([0-9a-f]{8})$/;
