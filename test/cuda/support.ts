// Drives the case tables of test/ops/cases on the device "cuda": activations and the weights of products in bf16, precision bf16,
// against the reference on the very same inputs; bits against repetition and scheduling; the words of device faults.
//
// The library is ESFT_CUDA_LIBRARY, else the emulation of the build folder (the same sources on the host); without one the tests
// say that they are skipped.

import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it } from "vitest";
import { KernelError } from "../../lib/errors.ts";
import { Device } from "../../lib/tensor.ts";
import { expectBf16Close } from "../ops/activations.ts";
import { bf16Args } from "../ops/bf16_args.ts";
import { Random } from "../ops/host.ts";
import type { Arg, Args, HostTensor } from "../ops/host.ts";
import { Call, closeDevices, device, run } from "../ops/support.ts";
import type { OpCase, Output } from "../ops/support.ts";

function findLibrary(): string | null {
  if (process.env.ESFT_CUDA_LIBRARY) return process.env.ESFT_CUDA_LIBRARY;
  const emulation = fileURLToPath(new URL("../../build/Release/libesft_cuda_emu.so", import.meta.url));
  if (!existsSync(emulation)) return null;
  process.env.ESFT_CUDA_LIBRARY = emulation;
  return emulation;
}
/** Which library the device "cuda" of these tests is; null: none, and they are skipped. "ref" proves this driver on the reference. */
export const cudaLibrary: string | null = findLibrary();
/** describe(), skipped in words where there is no library. */
export function withCuda(name: string, body: () => void): void {
  if (cudaLibrary) describe(name, body);
  else describe.skip(`${name} (no ESFT_CUDA_LIBRARY, no build/Release/libesft_cuda_emu.so)`, body);
}

/** Environment that the library reads when a device is opened. */
export interface Variant {
  /** "portable": the kernels of any GPU where this one has better; "sm90": those of Hopper, or a refusal. */
  readonly path?: "portable" | "sm90";
  /** CTAs of a cluster of Hopper's products. */
  readonly cluster?: "1" | "2";
  /** Tiles of Hopper's y = x·Wᵀ: by the sizes of the product, or always the widest. */
  readonly tiles?: "auto" | "wide";
  /** How whole tiles of Hopper's products leave: by the copy engine, or row by row. */
  readonly store?: "tma" | "rows";
  /** Passes of Hopper's attention backward. */
  readonly backward?: "one" | "two";
  /** Hopper's attention forward: a CTA per multiprocessor, or per tile. */
  readonly forward?: "persistent" | "tiles";
  /** Of the emulation: asynchronous copies land at once, as late as allowed, or at random; a GPU has its own schedule. */
  readonly schedule?: "eager" | "late" | `random:${number}`;
}

const open = new Map<string, Device>();

/** The device "cuda", opened once per variant and test file; null where there is no library. */
export function cudaDevice(v: Variant = {}): Device | null {
  if (!cudaLibrary) return null;
  if (cudaLibrary === "ref") return device("ref");
  const key = [v.path, v.cluster, v.tiles, v.store, v.backward, v.forward, v.schedule].join(" ");
  let d = open.get(key);
  if (!d) {
    const env: Record<string, string | undefined> = {
      ESFT_CUDA_PATH: v.path,
      ESFT_CUDA_CLUSTER: v.cluster,
      ESFT_CUDA_TILES: v.tiles,
      ESFT_CUDA_STORE: v.store,
      ESFT_CUDA_ATTENTION_BACKWARD: v.backward,
      ESFT_CUDA_ATTENTION_FORWARD: v.forward,
      ESFT_EMU_SCHEDULE: v.schedule,
    };
    const before = Object.fromEntries(Object.keys(env).map((name) => [name, process.env[name]]));
    const set = (values: Record<string, string | undefined>): void => {
      for (const [name, value] of Object.entries(values))
        if (value === undefined) delete process.env[name];
        else process.env[name] = value;
    };
    try {
      set(env);
      d = new Device({ kind: "cuda" });
    } finally {
      set(before);
    }
    open.set(key, d);
  }
  return d;
}
const cuda = (v?: Variant): Device => cudaDevice(v)!;

export function closeCuda(): void {
  for (const d of open.values()) d.dispose();
  open.clear();
  closeDevices();
}

/** An emulated thread costs a thousand times a real one, and the machine may be busy. */
const limit = 300_000;

/** Ops with kernels of their own for one generation of GPUs. */
const hasPaths = (op: string): boolean => /^gemm|grouped_gemm|attention(_backward)?$|cross_entropy/.test(op);
/** What an op's values are taken on: the kernels of this GPU, and where it has some of its own, those of any. */
const pathsOf = (op: string): readonly Variant[] =>
  op === "attention_backward" ? [{}, { backward: "two" }, { path: "portable" }] : hasPaths(op) ? [{}, { path: "portable" }] : [{}];

/** Ops whose kernels can share loads between the CTAs of a cluster. */
export const hasClusters = (op: string): boolean => /^gemm|grouped_gemm|cross_entropy/.test(op);

const views = (args: Args, f: (t: HostTensor) => HostTensor): Args =>
  Object.fromEntries(
    Object.entries(args).map(([name, a]): [string, Arg] => {
      if (Array.isArray(a) && typeof a[0] === "object") return [name, (a as readonly HostTensor[]).map(f)];
      return [name, a && typeof a === "object" && "dtype" in a ? f(a) : a];
    }),
  );
const isStrided = (args: Args): boolean => {
  let found = false;
  views(args, (t) => ((found ||= Boolean(t.pad)), t));
  return found;
};

/** A case as the device gets it, and for views of odd alignment a second one whose rows start on 16 bytes. */
export function forms(c: OpCase, asIs = false): { name: string; args: () => Args }[] {
  const made = (): Args => {
    const args = c.args(new Random(c.name));
    return asIs ? args : bf16Args(c.op, args);
  };
  const plain = { name: `${c.op}: ${c.name}`, args: made };
  if (!isStrided(made())) return [plain];
  return [plain, { name: `${plain.name}, aligned`, args: () => views(made(), (t) => (t.pad ? { ...t, pad: [8, 16] } : t)) }];
}

/** Value against the reference on the very same inputs, or the refusal that the case announces. Needs no test runner. */
export async function expectValue(c: OpCase, args: Args, variants = pathsOf(c.op)): Promise<void> {
  if (c.cudaUnsupported) return expectUnsupported(c.op, args, c.cudaUnsupported);
  const want = await run(device("ref"), c.op, args);
  for (const variant of variants) {
    const got = await run(cuda(variant), c.op, args);
    expect(got.map((o) => o.name)).toEqual(want.map((o) => o.name));
    const label = ["cuda", ...Object.values(variant), c.op].join(" ");
    for (const [i, o] of got.entries()) expectBf16Close(c, args, label, o, want[i]!.values);
  }
}

export function expectSameBits(label: string, got: readonly Output[], want: readonly Output[]): void {
  expect(got.map((o) => o.name)).toEqual(want.map((o) => o.name));
  for (const [i, o] of got.entries()) expect(Buffer.compare(o.bytes, want[i]!.bytes), `${label}: ${o.name}`).toBe(0);
}

export interface CudaOptions {
  /** The table says its dtypes itself: nothing is converted. */
  readonly asIs?: boolean;
}

/** Value (of every kernel path) against the reference, and the same bits again and under other schedules, for each case. */
export function describeCudaCases(stem: string, cases: readonly OpCase[], options: CudaOptions = {}): void {
  afterAll(closeCuda);
  const all = cases.flatMap((c) => forms(c, options.asIs ?? false).map((form) => ({ c, ...form })));
  withCuda(`${stem} on cuda: value`, () => {
    for (const { c, name, args: make } of all) it(name, () => expectValue(c, make()), limit);
  });
  withCuda(`${stem} on cuda: the same bits again and under other schedules`, () => {
    for (const { c, name, args: make } of all) {
      if (c.cudaUnsupported) continue;
      it(
        name,
        async () => {
          const args = make();
          const first = await run(cuda(), c.op, args);
          expectSameBits("again", await run(cuda(), c.op, args), first);
          if (!cuda().info.emulated) return;
          for (const schedule of ["eager", "late", "random:7"] as const)
            expectSameBits(schedule, await run(cuda({ schedule }), c.op, args), first);
          if (!hasPaths(c.op)) return;
          if (hasClusters(c.op))
            for (const schedule of ["late", "random:11"] as const)
              expectSameBits(`no clusters, ${schedule}`, await run(cuda({ cluster: "1", schedule }), c.op, args), first);
          if (hasClusters(c.op)) expectSameBits("by rows, late", await run(cuda({ store: "rows", schedule: "late" }), c.op, args), first);
          if (/gemm/.test(c.op))
            expectSameBits("wide tiles, late", await run(cuda({ tiles: "wide", schedule: "late" }), c.op, args), first);
          if (c.op === "attention")
            for (const schedule of ["eager", "late", "random:5"] as const)
              expectSameBits(`a CTA per tile, ${schedule}`, await run(cuda({ forward: "tiles", schedule }), c.op, args), first);
          if (c.op === "attention_backward") {
            const two = await run(cuda({ backward: "two" }), c.op, args);
            expectSameBits("two passes, late", await run(cuda({ backward: "two", schedule: "late" }), c.op, args), two);
            for (const schedule of ["random:1", "random:2", "random:3"] as const)
              expectSameBits(schedule, await run(cuda({ schedule }), c.op, args), first);
          }
          const portable = await run(cuda({ path: "portable" }), c.op, args);
          expectSameBits("portable, late", await run(cuda({ path: "portable", schedule: "late" }), c.op, args), portable);
        },
        limit,
      );
    }
  });
}

/** Cases that Hopper's own kernels serve, without help from the portable ones. */
export function describeHopperCases(stem: string, cases: readonly OpCase[]): void {
  afterAll(closeCuda);
  withCuda(`${stem} on sm_90a: served by its own kernels`, () => {
    for (const c of cases)
      it(
        `${c.op}: ${c.name}`,
        async (test) => {
          const d = cuda({ path: "sm90" });
          if (d.info.instructionSet !== "sm_90a") return test.skip(`this device is ${d.info.instructionSet}`);
          const args = bf16Args(c.op, c.args(new Random(c.name)));
          const want = await run(device("ref"), c.op, args);
          for (const [i, o] of (await run(d, c.op, args)).entries()) expectBf16Close(c, args, `sm90 ${c.op}`, o, want[i]!.values);
        },
        limit,
      );
  });
}

async function attempt(d: Device, call: Call): Promise<KernelError | null> {
  try {
    call.submit();
    await d.synchronize();
    return null;
  } catch (error) {
    expect(error).toBeInstanceOf(KernelError);
    return error as KernelError;
  }
}

/** A call the device does not serve is refused in words that say so, before anything is written. */
async function expectUnsupported(op: string, args: Args, words: string): Promise<void> {
  const call = new Call(cuda(), op, args);
  try {
    const before = await call.outputs();
    const error = await attempt(cuda(), call);
    expect(error, `${op} on cuda accepted it`).not.toBeNull();
    expect(error!.message.startsWith(`${op}: `), error!.message).toBe(true);
    expect(error!.message).toContain(words);
    expectSameBits("written", await call.outputs(), before);
  } finally {
    call.dispose();
  }
}

/** A call in f32, as the cpu takes it: served right, or refused by words that name what cuda wants. */
export async function expectRightOrRefused(c: OpCase): Promise<void> {
  const args = c.args(new Random(c.name));
  const want = await run(device("ref"), c.op, args);
  const call = new Call(cuda(), c.op, args);
  try {
    const error = await attempt(cuda(), call);
    if (error) {
      expect(error.message.startsWith(`${c.op}: `), error.message).toBe(true);
      expect(error.message).toMatch(/bf16|CUDA|cuda/);
    } else {
      const wide = { ...c, k: Math.max(c.k ?? 1, 64) };
      for (const [i, o] of (await call.outputs()).entries()) expectBf16Close(wide, args, `cuda ${c.op}`, o, want[i]!.values);
    }
  } finally {
    call.dispose();
  }
}

/**
 * Values in index tensors that only the device sees: the words of the reference, nothing outside the outputs touched, and the device
 * works on. Outputs may be half written: the values are seen while the op runs.
 */
export async function expectFault(base: OpCase, change: Args): Promise<void> {
  const good = bf16Args(base.op, base.args(new Random(base.name)));
  const bad = { ...good, ...change };
  const onRef = new Call(device("ref"), base.op, bad);
  const expected = await attempt(device("ref"), onRef);
  onRef.dispose();
  expect(expected, "the reference accepts it").not.toBeNull();
  for (const variant of pathsOf(base.op)) {
    const d = cuda(variant);
    const call = new Call(d, base.op, bad);
    try {
      const error = await attempt(d, call);
      expect(error?.message).toBe(expected!.message);
      await call.expectForeignUntouched();
    } finally {
      call.dispose();
    }
    const want = await run(device("ref"), base.op, good);
    const got = await run(d, base.op, good);
    for (const [i, o] of got.entries()) expectBf16Close({ ...base, k: 64 }, good, `cuda ${base.op}, afterwards`, o, want[i]!.values);
  }
}
