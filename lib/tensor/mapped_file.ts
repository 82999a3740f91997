// A file in the address space of this process.

import { native } from "../native.ts";
import type { NativeMappedFile } from "../native.ts";
import { guarded } from "./failure.ts";

/** A file mapped read-only; tensors made from it keep the mapping alive. */
export class MappedFile {
  readonly handle: NativeMappedFile;
  readonly path: string;
  /** @throws KernelError it cannot be opened, or is no regular file */
  constructor(path: string) {
    this.path = path;
    this.handle = guarded(() => new native.MappedFile(path));
  }
  get bytes(): number {
    return this.handle.byteLength();
  }
  dispose(): void {
    this.handle.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}
