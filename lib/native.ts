// Loads the addon and types its whole surface. The only file that knows the binary exists.

import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { KernelError } from "./errors.ts";

export interface NativeTensor {
  isDisposed(): boolean;
  view(byteOffset: number, dtype: number, shape: readonly number[], ld?: number): NativeTensor;
  read(): Promise<ArrayBuffer>;
  write(data: NodeJS.TypedArray): void;
  copyFromMap(file: NativeMappedFile, byteOffset: number): void;
  /** lib/tensor/decode.ts says what each list holds. */
  decode(
    label: string,
    words: readonly string[],
    numbers: readonly number[],
    parts: readonly string[],
    files: readonly NativeMappedFile[],
    ranges: readonly number[],
  ): void;
  dispose(): void;
}

export interface NativeGraph {
  end(): Promise<void>;
  launch(): void;
  dispose(): void;
}

export interface NativeTensorList {
  dispose(): void;
}

export interface NativeMappedFile {
  byteLength(): number;
  dispose(): void;
}

export interface NativeDeviceInfo {
  readonly backend: string;
  readonly name: string;
  readonly instructionSet: string;
  readonly threads: number;
  readonly hostMemory: boolean;
  readonly memoryBytes: number;
  /** When the device was opened; 0 = not known. */
  readonly memoryFree: number;
  readonly bf16Compute: boolean;
  /** What the ops of this device take as activations. */
  readonly activationDtype: "f32" | "bf16";
  /** The CUDA kernels running on the host (tests). */
  readonly emulated: boolean;
  /** A recorded sequence of ops is a graph of the device's own; else its ops are kept, and run one after another. */
  readonly graphs: boolean;
}

export interface NativeDevice {
  alloc(dtype: number, shape: readonly number[]): NativeTensor;
  fromMap(file: NativeMappedFile, byteOffset: number, dtype: number, shape: readonly number[]): NativeTensor;
  /** Submits op number `op` of `ops`: a value for each of its fields, in their order; handles, numbers, arrays of integers. */
  run(op: number, ...values: unknown[]): void;
  synchronize(): Promise<void>;
  dispose(): void;
  info(): NativeDeviceInfo;
  memoryFree(): number;
  captureBegin(): NativeGraph;
  /** What is submitted from now on goes to stream `index` (csrc/core/backend.h). */
  stream(index: number): void;
  /** What goes to stream `after` from now on waits for what went to `before`. */
  order(before: number, after: number): void;
}

/** An argument of an op, as csrc/ops/<op>.h states it. */
export interface OpField {
  readonly name: string;
  readonly kind: "tensor" | "list" | "ints" | "i64" | "f64";
  readonly written: boolean;
  readonly optional: boolean;
  /** f32 or bf16, all activations of a call alike. */
  readonly activation: boolean;
}

export interface Native {
  readonly Device: new (kind: string, threads: number, index?: number) => NativeDevice;
  readonly TensorList: new (tensors: readonly NativeTensor[]) => NativeTensorList;
  readonly MappedFile: new (path: string) => NativeMappedFile;
  readonly ops: readonly { readonly name: string; readonly fields: readonly OpField[] }[];
  readonly instructionSets: readonly string[];
  readonly abi: number;
  /** Where the CUDA library is looked for. */
  cudaLibraryPath(): string;
  /** Bytes outside its heap that V8 has been told of: those of tensors in host memory, and other addons' (process.memoryUsage() leaves them out). */
  externalMemory(): number;
}

/** The package root: the folder with package.json, both from lib/ (sources) and from dist/ (published). */
export const packageRoot: string = fileURLToPath(new URL("..", import.meta.url));

/** How to build the addon here: the command of a clone, or of an installed package. */
export const buildCommand: string = existsSync(join(packageRoot, "scripts", "cmake-build.ts")) ? "npm run build:native" : "npx esft build";

function load(): Native {
  const require = createRequire(import.meta.url);
  const override = process.env.ESFT_NATIVE; // another build of the addon (sanitizers)
  try {
    if (override) return require(resolve(override)) as Native;
    const loader = require("node-gyp-build") as (root: string) => Native;
    return loader(packageRoot);
  } catch (cause) {
    const platform = `${process.platform}-${process.arch}`;
    const build = `${override ? "unset ESFT_NATIVE, or " : ""}build the addon here: ${buildCommand} (needs cmake >= 3.24 and g++ >= 10 or clang, no network)`;
    throw new KernelError(
      `esft: the native addon could not be loaded for ${platform}, Node ${process.version}.\n` +
        `Looked in ${override ? `${resolve(override)} (ESFT_NATIVE)` : `${join(packageRoot, "build", "Release")} and ${join(packageRoot, "prebuilds", platform)}`}.\n` +
        `Fix: ${build}.\n` +
        `Cause: ${cause instanceof Error ? cause.message.split("\n")[0] : String(cause)}`,
      { cause },
    );
  }
}

export const native: Native = load();
