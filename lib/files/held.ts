// The weight files of a model, kept open while it is in use: one that is deleted can still be read, and one that changes is noticed
// by size, time of writing and inode.
import { stat } from "node:fs/promises";
import { basename, dirname } from "node:path";
import { LayoutError } from "../errors.ts";
import type { FileStamp } from "./regular.ts";
import { RegularFile } from "./regular.ts";

/** A file as it was when its header was read. */
export interface StampedFile {
  readonly path: string;
  readonly stamp: FileStamp;
}

export class HeldFiles implements AsyncDisposable {
  private readonly files = new Map<string, StampedFile & { readonly file: RegularFile }>();
  private closed = Promise.resolve();

  /** Opens files to keep. @throws LayoutError one has changed since its header was read · IoError */
  async hold(files: readonly StampedFile[]): Promise<void> {
    try {
      for (const { path, stamp } of files) this.files.set(path, { path, stamp, file: await RegularFile.open(path) });
      await this.requireUnchanged();
    } catch (error) {
      await this.close();
      throw error;
    }
  }

  /** A file that is kept open. */
  get(path: string): RegularFile | undefined {
    return this.files.get(path)?.file;
  }

  /**
   * @returns paths of files that were deleted: what is read of them is still right
   * @throws LayoutError files were written to or replaced since they were opened; names them
   */
  async requireUnchanged(): Promise<string[]> {
    const deleted: string[] = [];
    const changed: { readonly path: string; readonly how: string }[] = [];
    for (const { path, stamp, file } of this.files.values()) {
      const now = await file.currentStamp();
      const there = await stat(path, { bigint: true }).catch(() => null);
      const how = difference(stamp, now) ?? (there && difference(now, there));
      if (how) changed.push({ path, how });
      else if (!there) deleted.push(path);
    }
    const [first] = changed;
    if (first) {
      const list = changed.slice(0, 5).map(({ path, how }) => `${basename(path)} (${how})`);
      throw new LayoutError(
        `${dirname(first.path)}: weight files changed while the model was in use: ${list.join(", ")}${changed.length > 5 ? " …" : ""}; ` +
          "what was computed since may be wrong and was not saved. Restore the files and open the model again",
        { where: { file: first.path, changed: changed.length } },
      );
    }
    return deleted;
  }

  /** Waits for reads in progress. */
  close(): Promise<void> {
    const files = [...this.files.values()];
    this.files.clear();
    this.closed = Promise.all([this.closed, ...files.map(({ file }) => file[Symbol.asyncDispose]())]).then(() => undefined);
    return this.closed;
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

function difference(before: FileStamp, now: FileStamp): string | null {
  if (now.ino !== before.ino || now.dev !== before.dev) return "another file took its place";
  if (now.size !== before.size) return `${before.size} bytes before, ${now.size} now`;
  if (now.mtimeNs !== before.mtimeNs) return `written at ${new Date(Number(now.mtimeNs / 1_000_000n)).toISOString()}`;
  return null;
}
