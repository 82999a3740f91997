// The file system as writers see it: node:fs/promises behind one name, so that tests can put a failing disk in its place.
import * as fs from "node:fs/promises";

/** All that writers call; reading alone goes to node:fs/promises directly. */
export type Disk = Pick<
  typeof fs,
  "appendFile" | "copyFile" | "link" | "mkdir" | "open" | "readdir" | "readFile" | "rename" | "rm" | "rmdir" | "stat" | "statfs" | "symlink"
>;

export let disk: Disk = fs;

/** For tests. @returns the disk that was there */
export function replaceDisk(other: Disk): Disk {
  const before = disk;
  disk = other;
  return before;
}
