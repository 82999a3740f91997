// A run directory belongs to one run at a time: whoever writes into it holds its lock, run.lock. Readers need none.

import { dirname, join, resolve } from "node:path";
import { makeFolder } from "../files/atomic.ts";
import { disk } from "../files/disk.ts";
import { takeLock } from "../files/lock.ts";
import type { Lock } from "../files/lock.ts";

/** Makes the directory where there is none; the release removes it again when nothing was written. @throws LockError · IoError */
export async function lockRun(outDir: string): Promise<Lock> {
  const dir = resolve(outDir);
  const made = await makeFolder(dir);
  const clean = async (): Promise<void> => {
    if (made === null) return;
    for (let at = dir; at.length >= made.length; at = dirname(at))
      if (!(await disk.rmdir(at).then(() => true, () => false))) return; // prettier-ignore
  };
  const lock = await takeLock(join(dir, "run.lock"), outDir).catch(async (error: unknown) => {
    await clean();
    throw error;
  });
  const release = async (): Promise<void> => {
    await lock.release();
    await clean();
  };
  return { path: lock.path, release, [Symbol.asyncDispose]: release };
}
