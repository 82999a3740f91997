// Folders and files of checkpoints that are not what they should be: names that are none, tensors of another kind under a hash that fits,
// disks that refuse. No GPU. Alone: npx vitest run test/train/checkpoint_files.test.ts

import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { IoError, LayoutError } from "../../lib/errors.ts";
import type { Disk } from "../../lib/files/disk.ts";
import { replaceDisk } from "../../lib/files/disk.ts";
import { sha256 } from "../../lib/files/hash.ts";
import { writeSafetensors } from "../../lib/files/safetensors_writer.ts";
import { sealedJson } from "../../lib/files/sealed.ts";
import type { Parameter } from "../../lib/model/weights/parameter.ts";
import { allocateState } from "../../lib/model/weights/training_state.ts";
import { Device } from "../../lib/tensor.ts";
import { bestDir, Checkpoints, hasCheckpoint, keptBest, keptStates, pruneBest, readRun, verifyState } from "../../lib/train/checkpoint.ts";
import { FaultyDisk, withoutFsync } from "../support/faulty_disk.ts";
import { tempDir } from "../support/fixture.ts";

withoutFsync();
const root = tempDir();
const device = new Device({ kind: "cpu", threads: 1 });
afterAll(() => device.dispose());
const fresh = (): string => mkdtempSync(join(root, "c"));
const state = allocateState(device, [{ key: "a", shape: [20] }, { key: "b", shape: [3] }] as unknown as Parameter[]); // prettier-ignore
for (const name of ["master", "m", "v"] as const) state[name].write(new Float32Array(state.size));
const progress = (step: number) => ({
  step,
  evaluated: false,
  skipped: 0,
  optimizerSteps: step,
  cursor: { epoch: 0, row: 0, fingerprint: "" },
  facts: {},
  extensions: [],
  best: null,
  firstEval: null,
  lastEval: null,
  tokens: 1,
  seconds: 1,
});
const anything = async (): Promise<void> => undefined;
async function saved(...steps: number[]): Promise<string> {
  const outDir = fresh();
  const checkpoints = new Checkpoints(outDir);
  for (const step of steps) await checkpoints.save(state, progress(step));
  return outDir;
}
/** Works on a disk of which these operations are other ones. */
async function on<T>(changes: Partial<Disk>, work: () => Promise<T>): Promise<T> {
  const before = replaceDisk({ ...new FaultyDisk().disk, ...changes });
  try {
    return await work();
  } finally {
    replaceDisk(before);
  }
}
const denied = (code: string) => (): Promise<never> => Promise.reject(Object.assign(new Error(`${code}: planted`), { code }));

it("other names are no states and no best adapters, and stay", async () => {
  const outDir = await saved(7);
  const strays = ["7-step", "0002-step-7.bak", "0003-step-7 ", "x0003-step-7", "0003-step--7", "-step-7"];
  for (const name of strays) mkdirSync(join(outDir, "checkpoint", name));
  expect((await keptStates(outDir)).map((k) => [k.save, k.step])).toEqual([[1, 7]]);
  const others = ["step-", "step-x", "step-3x", "xstep-3", "step-3.bak"];
  for (const name of [...others, "step-10", "step-9", "step-100"]) mkdirSync(join(outDir, "best", name), { recursive: true });
  expect(await keptBest(outDir)).toEqual([9, 10, 100]);
  await pruneBest(outDir, new Set([10]));
  expect(readdirSync(join(outDir, "best")).sort()).toEqual([...others, "step-10"].sort());
  expect(bestDir(outDir, 10)).toBe(join(outDir, "best", "step-10"));
  await new Checkpoints(outDir).save(state, progress(8));
  expect(readdirSync(join(outDir, "checkpoint")).sort()).toEqual([...strays, "0002-step-8"].sort()); // the one of step 7 was not restored
  expect([await keptBest(fresh()), await hasCheckpoint(fresh())]).toEqual([[], false]);
});

it("tensors of another kind are refused though the hash fits, with what was expected and found", async () => {
  const outDir = await saved(1, 2);
  const [newest] = await keptStates(outDir);
  const [path, manifest] = [join(newest!.path, "state.safetensors"), join(newest!.path, "run.json")];
  const { sha256: _, ...run } = JSON.parse(readFileSync(manifest, "utf8")) as Record<string, unknown>;
  const { size } = state;
  const tensor = (name: string, dtype: "F32" | "BF16" = "F32", shape = [size]) => {
    const bytes = shape.reduce((a, b) => a * b, 1) * (dtype === "F32" ? 4 : 2);
    return { name, dtype, shape, data: new Uint8Array(bytes) };
  };
  for (const [tensors, found] of [
    [[tensor("master"), tensor("m")], 'tensor "v" must be F32 [48], found nothing'],
    [[tensor("master"), tensor("m", "BF16"), tensor("v")], 'tensor "m" must be F32 [48], found BF16 [48]'],
    [[tensor("master", "F32", [size - 1]), tensor("m"), tensor("v")], 'tensor "master" must be F32 [48], found F32 [47]'],
    [[tensor("master", "F32", [2, size / 2]), tensor("m"), tensor("v")], 'tensor "master" must be F32 [48], found F32 [2, 24]'],
  ] as const) {
    await writeSafetensors(path, [...tensors]);
    writeFileSync(manifest, sealedJson({ ...run, stateSha256: sha256(readFileSync(path)) }));
    expect((await verifyState(newest!)).step).toBe(2);
    const restored = await new Checkpoints(outDir).restore(state, anything);
    expect([restored!.run.step, restored!.damages]).toEqual([1, [expect.stringContaining(`${path}: ${found}.`)]]);
  }
});

it("a folder that cannot be read or removed is told by its name", async () => {
  const outDir = await saved(1);
  const told = { code: "ERR_IO", where: { file: join(outDir, "checkpoint"), errno: "EACCES" } };
  const readdir = denied("EACCES") as unknown as Disk["readdir"];
  await expect(on({ readdir }, () => keptStates(outDir))).rejects.toMatchObject({
    ...told,
    message: expect.stringMatching(/^cannot read .*checkpoint: /) as string,
  });
  mkdirSync(bestDir(outDir, 3), { recursive: true });
  const removed = on({ rename: denied("EPERM") }, () => pruneBest(outDir, new Set()));
  await expect(removed).rejects.toMatchObject({
    code: "ERR_IO",
    message: expect.stringMatching(/^cannot remove .*step-3: /) as string,
    where: { file: bestDir(outDir, 3) },
  });
  for (const code of ["ENOENT", "ENOTDIR"])
    expect(await on({ readdir: denied(code) as unknown as Disk["readdir"] }, () => keptStates(outDir))).toEqual([]);
});

it("errors of the process are no damage, those of the disk are", async () => {
  const outDir = await saved(1, 2);
  const refusing = (errno: string) =>
    new Checkpoints(outDir).restore(state, async ({ step }) => {
      if (step === 2) throw new IoError("planted", { where: { errno } });
    });
  for (const errno of ["EACCES", "EPERM", "EMFILE", "ENFILE"]) await expect(refusing(errno)).rejects.toBeInstanceOf(IoError);
  for (const errno of ["EIO", "ENOENT"]) {
    const { run, damages } = (await refusing(errno))!;
    expect([run.step, damages]).toEqual([
      1,
      ["planted. The state of step 2 (0002-step-2) is not used; the run goes back to that of step 1"],
    ]);
  }
  const all = new Checkpoints(outDir).restore(state, async () => {
    throw new IoError("planted", { where: { errno: "EIO" } });
  });
  const [newest] = await keptStates(outDir);
  await expect(all).rejects.toBeInstanceOf(LayoutError);
  await expect(all).rejects.toMatchObject({
    message: expect.stringMatching(/no state to go on from: planted; planted\./) as string,
    where: { file: newest!.path },
  });
  expect((await readRun(newest!)).step).toBe(2);
});

it("is of an earlier version when its files lie in the folder itself", async () => {
  const outDir = fresh();
  mkdirSync(join(outDir, "checkpoint"));
  writeFileSync(join(outDir, "checkpoint/run.json"), "{}");
  await expect(new Checkpoints(outDir).restore(state, anything)).rejects.toMatchObject({
    code: "ERR_LAYOUT",
    where: { file: join(outDir, "checkpoint") },
  });
  expect(existsSync(join(outDir, "checkpoint/run.json"))).toBe(true);
});
