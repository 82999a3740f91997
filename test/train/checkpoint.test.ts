// Checkpoints by themselves: what is saved is restored bit by bit in chunks of any size, every flipped byte is found, the state before
// takes the place of a damaged one, two are kept. No GPU. Alone: npx vitest run test/train/checkpoint.test.ts

import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { ConfigError, IoError, LayoutError } from "../../lib/errors.ts";
import { replaceDisk } from "../../lib/files/disk.ts";
import { sha256 } from "../../lib/files/hash.ts";
import { openSafetensors } from "../../lib/files/safetensors.ts";
import { sealedJson } from "../../lib/files/sealed.ts";
import { forget, temporary } from "../../lib/files/temporary.ts";
import type { Parameter } from "../../lib/model/weights/parameter.ts";
import { allocateState } from "../../lib/model/weights/training_state.ts";
import type { TrainingState } from "../../lib/model/weights/training_state.ts";
import { Device } from "../../lib/tensor.ts";
import { bestDir, Checkpoints, hasCheckpoint, keptStates, pruneBest, verifyState } from "../../lib/train/checkpoint.ts";
import type { RunState } from "../../lib/train/checkpoint.ts";
import { everyPoint, FAULTS, FaultyDisk, leftovers, withoutFsync } from "../support/faulty_disk.ts";

withoutFsync();
const root = mkdtempSync(join(tmpdir(), "esft-checkpoint-"));
const device = new Device({ kind: "cpu", threads: 1 });
afterAll(() => {
  device.dispose();
  rmSync(root, { recursive: true, force: true });
});
const fresh = (): string => mkdtempSync(join(root, "t"));

type Shapes = Readonly<Record<string, readonly number[]>>;
const SHAPES: Shapes = { "a.weight": [3, 5], "b.weight": [4], "c.weight": [2, 9] };
const FLAT = ["master", "m", "v"] as const;

function newState(shapes: Shapes = SHAPES): TrainingState {
  return allocateState(device, Object.entries(shapes).map(([key, shape]) => ({ key, shape }) as unknown as Parameter)); // prettier-ignore
}
/** Values that no two elements of no two ages share. */
function fill(state: TrainingState, age: number): void {
  FLAT.forEach((name, i) => state[name].write(Float32Array.from({ length: state.size }, (_, j) => age * 1000 + i * 100 + j / 8)));
}
const values = async (state: TrainingState): Promise<number[][]> =>
  Promise.all(FLAT.map(async (name) => [...(await state[name].readF32())]));

const progress = (step: number, more: Partial<RunState> = {}) => ({
  step,
  evaluated: true,
  skipped: 1,
  optimizerSteps: step - 1,
  cursor: { epoch: 1, row: 2, fingerprint: "rows" },
  facts: { seed: 7, optimizer: { lr: 0.1 } },
  extensions: [{ step: 1, from: 2, to: 3 }],
  best: null,
  firstEval: 2.5,
  lastEval: null,
  tokens: 10 * step,
  seconds: 1.5,
  ...more,
});
const anything = async (): Promise<void> => undefined;
const restore = (outDir: string, state: TrainingState, chunk?: number) => new Checkpoints(outDir, chunk).restore(state, anything);
const steps = async (outDir: string): Promise<number[]> => (await keptStates(outDir)).map((k) => k.step);

/** Saves steps 1 … n with values of that age. */
async function saved(n: number, chunk?: number): Promise<string> {
  const outDir = fresh();
  const state = newState();
  const checkpoints = new Checkpoints(outDir, chunk);
  for (let step = 1; step <= n; step++) {
    fill(state, step);
    await checkpoints.save(state, progress(step));
  }
  return outDir;
}
const flip = (path: string, at: number, bit = 1): void => {
  const bytes = readFileSync(path);
  bytes[at]! ^= bit;
  writeFileSync(path, bytes);
};

describe("a state", () => {
  it.each([1, 5, 16, 1000])("is restored bit by bit, in chunks of %i elements", async (chunk) => {
    const outDir = await saved(1, chunk);
    const expected = newState();
    fill(expected, 1);
    for (const reader of [chunk, 7]) {
      const state = newState();
      fill(state, 9);
      const { run, damages } = (await restore(outDir, state, reader))!;
      expect(await values(state)).toEqual(await values(expected));
      expect(run).toMatchObject({ format: "esft-run", version: 2, ...progress(1) });
      expect(damages).toEqual([]);
    }
    // The file is what it says it is, in the order of the table.
    const [kept] = await keptStates(outDir);
    const file = await openSafetensors(join(kept!.path, "state.safetensors"));
    expect([...file.tensors.keys()]).toEqual(FLAT);
    const run = await verifyState(kept!);
    expect(run.stateSha256).toBe(sha256(readFileSync(join(kept!.path, "state.safetensors"))));
    expect(run.parameters).toEqual([
      { key: "a.weight", shape: [3, 5], offset: 0 },
      { key: "b.weight", shape: [4], offset: 16 },
      { key: "c.weight", shape: [2, 9], offset: 32 },
    ]);
  });

  it("is one of two: the newest and the one before, in folders named by save and step", async () => {
    const outDir = fresh();
    expect(await hasCheckpoint(outDir)).toBe(false);
    expect(await restore(outDir, newState())).toBeNull();
    const checkpoints = new Checkpoints(outDir);
    const state = newState();
    const paths: string[] = [];
    for (const step of [4, 8, 8, 12]) {
      paths.push(await checkpoints.save(state, progress(step)));
      expect(await hasCheckpoint(outDir)).toBe(true);
    }
    expect(paths.map((p) => basename(p))).toEqual(["0001-step-4", "0002-step-8", "0003-step-8", "0004-step-12"]);
    expect(readdirSync(join(outDir, "checkpoint")).sort()).toEqual(["0003-step-8", "0004-step-12"]);
    expect((await keptStates(outDir)).map((k) => k.save)).toEqual([4, 3]);
  });

  it("is found by its number, whatever its step, and beside files that are none", async () => {
    const outDir = await saved(2);
    for (const name of ["notes", "0009-step-x", "x0009-step-9"]) mkdirSync(join(outDir, "checkpoint", name));
    renameSync(join(outDir, "checkpoint/0002-step-2"), join(outDir, "checkpoint/10000-step-2"));
    expect(await steps(outDir)).toEqual([2, 1]);
    writeFileSync(join(outDir, "file"), "");
    expect(await keptStates(join(outDir, "file"))).toEqual([]);
  });

  it("of other parameters is refused, with the first that differs", async () => {
    const outDir = await saved(1);
    const { "c.weight": _, ...two } = SHAPES;
    const others: [Shapes, RegExp][] = [
      [{ ...SHAPES, "b.weight": [2, 2] }, /parameter 1 to be b\.weight \[2, 2\] at 16, found b\.weight \[4\] at 16/],
      [{ ...two, "d.weight": [2, 9] }, /parameter 2 to be d\.weight .*, found c\.weight/],
      [two, /parameter 2 to be none, found c\.weight \[2, 9\] at 32/],
      [{ ...SHAPES, "d.weight": [1] }, /parameter 3 to be d\.weight \[1\] at 64, found none/],
    ];
    for (const [shapes, message] of others) {
      const state = newState(shapes);
      const error: unknown = await restore(outDir, state).catch((e: unknown) => e);
      expect(error).toBeInstanceOf(LayoutError);
      expect((error as Error).message).toMatch(message);
    }
  });

  it("of an earlier version is told from none", async () => {
    const outDir = fresh();
    mkdirSync(join(outDir, "checkpoint"));
    writeFileSync(join(outDir, "checkpoint/run.json"), "{}");
    expect(await hasCheckpoint(outDir)).toBe(true);
    await expect(restore(outDir, newState())).rejects.toThrow(/one of an earlier version, which is not hashed/);
  });
});

describe("damage", () => {
  it("of any byte of any file is found, and the state before is taken", async () => {
    const outDir = await saved(2);
    const [newest] = await keptStates(outDir);
    const [state, expected] = [newState(), newState()];
    fill(expected, 1);
    const before = await values(expected);
    for (const name of ["run.json", "state.safetensors"]) {
      const path = join(newest!.path, name);
      const whole = readFileSync(path);
      for (let at = 0; at < whole.length; at++) {
        flip(path, at, 1 << (at % 8));
        await expect(verifyState(newest!), `${name}, byte ${at}`).rejects.toThrow(LayoutError);
        if (at % 7 === 0) {
          fill(state, 5);
          const { run, damages } = (await restore(outDir, state))!;
          expect([run.step, damages.length], `${name}, byte ${at}`).toEqual([1, 1]);
          expect(damages[0]).toContain(path);
          expect(damages[0]).toMatch(/\. The state of step 2 \(0002-step-2\) is not used; the run goes back to that of step 1$/);
          expect(await values(state)).toEqual(before);
        }
        writeFileSync(path, whole);
      }
      for (const [change, bytes] of [["shorter", whole.subarray(0, -1)], ["longer", Buffer.concat([whole, Buffer.from(" ")])], ["empty", Buffer.alloc(0)]] as const) {
        writeFileSync(path, bytes);
        await expect(verifyState(newest!), `${name} ${change}`).rejects.toThrow(LayoutError);
        expect((await restore(outDir, state))!.run.step).toBe(1);
      } // prettier-ignore
      rmSync(path);
      expect((await restore(outDir, state))!.run.step).toBe(1);
      mkdirSync(path);
      expect((await restore(outDir, state))!.damages[0]).toContain(path);
      rmSync(path, { recursive: true });
      writeFileSync(path, whole);
    }
    expect((await restore(outDir, state))!.run.step).toBe(2);
  });

  it("is told with file, expected and found hash", async () => {
    const outDir = await saved(2);
    const [newest] = await keptStates(outDir);
    const path = join(newest!.path, "state.safetensors");
    const expected = sha256(readFileSync(path));
    for (const at of [20, readFileSync(path).length - 3]) {
      flip(path, at); // of the header, of the data
      const { damages } = (await restore(outDir, newState()))!;
      const found = sha256(readFileSync(path));
      expect(damages[0]).toContain(`${path}: expected sha256 ${expected}, found ${found}; the file was damaged or changed`);
      await expect(verifyState(newest!)).rejects.toMatchObject({ where: { file: path, expected, found } });
      flip(path, at);
    }
  });

  it("is NaN too, though the hashes fit: it names tensor and parameter", async () => {
    for (const [name, at, owner] of [["m", 17, "b.weight"], ["v", 0, "a.weight"], ["master", 40, "c.weight"]] as const) {
      const outDir = fresh();
      const checkpoints = new Checkpoints(outDir, 9);
      const state = newState();
      fill(state, 1);
      await checkpoints.save(state, progress(1));
      const bad = await state[name].readF32();
      bad[at] = NaN;
      state[name].write(bad);
      await checkpoints.save(state, progress(2));
      const { run, damages } = (await restore(outDir, newState(), 9))!;
      expect(run.step).toBe(1);
      expect(damages[0]).toMatch(new RegExp(`state\\.safetensors: expected numbers, found NaN in "${name}" of ${owner}\\.`));
    } // prettier-ignore
  });

  it("of run.json is found even when it is well-formed: without its hash, with other keys, of another version", async () => {
    const outDir = await saved(2);
    const [newest] = await keptStates(outDir);
    const path = join(newest!.path, "run.json");
    const { sha256: _, ...run } = JSON.parse(readFileSync(path, "utf8")) as Record<string, unknown>;
    for (const [text, message] of [
      [JSON.stringify(run), /expected its sha256 at the end, found none/],
      [sealedJson({ ...run, version: 3 }), /version/],
      [sealedJson({ ...run, step: -1 }), /step/],
      [sealedJson({ ...run, more: 1 }), /more/],
      ["[]", /found none/],
      ["null", /found none/],
    ] as const) {
      writeFileSync(path, text);
      const { damages } = (await restore(outDir, newState()))!;
      expect(damages[0]).toMatch(message);
    }
    writeFileSync(path, sealedJson(run));
    expect((await restore(outDir, newState()))!.damages).toEqual([]);
  });

  it("of both states ends the run, with the fix; nothing is lost by trying", async () => {
    const outDir = await saved(2);
    for (const { path } of await keptStates(outDir)) flip(join(path, "state.safetensors"), 300);
    const error: unknown = await restore(outDir, newState()).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(LayoutError);
    expect((error as Error).message).toMatch(
      /no state to go on from: .*0002-step-2\/state\.safetensors: expected sha256 .*; .*0001-step-1\/state\.safetensors: .*Restore these files from a copy, or train anew in another outDir$/,
    );
    expect((error as LayoutError).where.file).toContain("0002-step-2");
    expect(await steps(outDir)).toEqual([2, 1]);
  });

  it("gives its place to the next state, the good one stays", async () => {
    const outDir = await saved(3);
    const [newest] = await keptStates(outDir);
    flip(join(newest!.path, "state.safetensors"), 300);
    const checkpoints = new Checkpoints(outDir);
    const state = newState();
    expect((await checkpoints.restore(state, anything))!.run.step).toBe(2);
    expect(await steps(outDir)).toEqual([3, 2]);
    const path = await checkpoints.save(state, progress(3));
    expect(basename(path)).toBe("0004-step-3");
    expect((await keptStates(outDir)).map((k) => basename(k.path))).toEqual(["0004-step-3", "0002-step-2"]);
    expect((await restore(outDir, state))!.damages).toEqual([]);
  });

  it("is what the caller says it is; other errors end the run", async () => {
    const outDir = await saved(2);
    const refusing = (error: Error, from = 2) => new Checkpoints(outDir).restore(newState(), async ({ step }) => {
      if (step >= from) throw error;
    }); // prettier-ignore
    const { run, damages } = (await refusing(new LayoutError("best is gone")))!;
    expect(run.step).toBe(1);
    expect(damages).toEqual(["best is gone. The state of step 2 (0002-step-2) is not used; the run goes back to that of step 1"]);
    await expect(refusing(new ConfigError("other options"))).rejects.toThrow(ConfigError);
    await expect(refusing(new TypeError("a defect"))).rejects.toThrow(TypeError);
    await expect(refusing(new IoError("denied", { where: { errno: "EACCES" } }))).rejects.toThrow(IoError);
    expect((await refusing(new IoError("broken disk", { where: { errno: "EIO" } })))!.damages[0]).toContain("broken disk");
    await expect(refusing(new LayoutError("both"), 1)).rejects.toThrow(/both; both/);
  });
});

describe("room on the disk", () => {
  const withFree = async <T>(free: () => number, work: () => Promise<T>): Promise<T> => {
    const { disk } = new FaultyDisk();
    const before = replaceDisk({ ...disk, statfs: (async () => ({ bavail: free(), bsize: 1 })) as unknown as typeof disk.statfs });
    try {
      return await work();
    } finally {
      replaceDisk(before);
    }
  };
  const state = newState();
  const bytes = state.size * 12;

  it("is asked for two states before the first step, for what is missing of them later", async () => {
    const outDir = fresh();
    const checkpoints = new Checkpoints(outDir);
    const enough = (n: number): Promise<void> => withFree(() => n, () => checkpoints.requireSpace(state)); // prettier-ignore
    await enough(2 * bytes);
    await expect(enough(2 * bytes - 1)).rejects.toMatchObject({ code: "ERR_IO", where: { neededBytes: 2 * bytes } });
    await checkpoints.save(state, progress(1));
    await enough(bytes);
    await expect(enough(bytes - 1)).rejects.toThrow(/disk is full/);
    await checkpoints.save(state, progress(2));
    await enough(0);
  });

  it("for a third state while it is written is not needed: the oldest goes first then, the newest stays", async () => {
    const outDir = fresh();
    const checkpoints = new Checkpoints(outDir);
    for (const step of [1, 2]) await checkpoints.save(state, progress(step));
    const free = (): number =>
      2 * bytes + 10_000 - readdirSync(join(outDir, "checkpoint")).filter((n) => !n.startsWith(".")).length * bytes;
    await withFree(free, () => checkpoints.save(state, progress(3)));
    expect(await steps(outDir)).toEqual([3, 2]);
    await expect(withFree(() => 1, () => checkpoints.save(state, progress(4)))).rejects.toThrow(/disk is full/); // prettier-ignore
    expect(await steps(outDir)).toEqual([3]);
    expect((await restore(outDir, newState()))!.run.step).toBe(3);
  });
});

describe("best adapters", () => {
  it("stay as long as a kept state names them", async () => {
    const outDir = fresh();
    const checkpoints = new Checkpoints(outDir);
    const state = newState();
    const best = (step: number): { best: RunState["best"] } => ({ best: { step, loss: 1 } });
    const there = (): string[] => readdirSync(join(outDir, "best")).sort();
    for (const step of [2, 3, 5]) mkdirSync(join(bestDir(outDir, step), "inner"), { recursive: true });
    mkdirSync(join(outDir, "best/other"));
    await checkpoints.save(state, progress(2, best(2)));
    expect(there()).toEqual(["other", "step-2"]);
    mkdirSync(bestDir(outDir, 3));
    await checkpoints.save(state, progress(4, best(3)));
    expect(there()).toEqual(["other", "step-2", "step-3"]);
    const resumed = new Checkpoints(outDir);
    await resumed.restore(state, anything);
    mkdirSync(bestDir(outDir, 5));
    await resumed.save(state, progress(6, best(5)));
    expect(there()).toEqual(["other", "step-3", "step-5"]);
    rmSync(join(outDir, "best/other"), { recursive: true });
    await pruneBest(outDir, new Set());
    expect(existsSync(join(outDir, "best"))).toBe(false);
    await pruneBest(outDir, new Set());
  });
});

describe("a fault at any operation of a save", () => {
  it.each(FAULTS)("leaves the states before, or the new one too; the next save leaves nothing behind: %s", async (fault) => {
    const original = await saved(2);
    mkdirSync(bestDir(original, 1), { recursive: true });
    const outDir = fresh();
    const points = await everyPoint(
      fault,
      async () => {
        rmSync(outDir, { recursive: true, force: true });
        cpSync(original, outDir, { recursive: true });
      },
      async () => {
        const checkpoints = new Checkpoints(outDir, 20);
        const state = newState();
        await checkpoints.restore(state, anything);
        fill(state, 3);
        await checkpoints.save(state, progress(3));
      },
      async (point, error) => {
        const state = newState();
        const { run, damages } = (await restore(outDir, state))!;
        expect(damages, point).toEqual([]);
        expect([2, 3], point).toContain(run.step);
        if (error === null) expect(run.step, point).toBe(3);
        else if (fault === "EIO" || fault === "ENOSPC") expect(error, point).toBeInstanceOf(IoError);
        expect((await state.master.readF32())[0], point).toBe(run.step * 1000);
        const checkpoints = new Checkpoints(outDir);
        await checkpoints.restore(state, anything);
        await checkpoints.save(state, progress(4));
        expect(await steps(outDir), point).toEqual([4, run.step]);
        expect(await leftovers(outDir), point).toEqual([]);
      },
    );
    expect(points).toBeGreaterThan(fault.endsWith("write") ? 3 : 25);
  });

  it("also what a process left that died in a save of another step", async () => {
    const outDir = await saved(1);
    const left = temporary(join(outDir, "checkpoint/0007-step-9"));
    mkdirSync(left);
    const mine = temporary(join(outDir, "checkpoint/0007-step-9"));
    mkdirSync(mine);
    forget(left);
    const checkpoints = new Checkpoints(outDir);
    await checkpoints.restore(newState(), anything);
    await checkpoints.save(newState(), progress(2));
    expect(existsSync(left)).toBe(false);
    expect(existsSync(mine)).toBe(true);
    forget(mine);
  });

  it("is an IoError where a folder cannot be read", async () => {
    const outDir = await saved(1);
    const { disk } = new FaultyDisk();
    const readdir = () => Promise.reject(Object.assign(new Error("EACCES"), { code: "EACCES" }));
    const before = replaceDisk({ ...disk, readdir: readdir as unknown as typeof disk.readdir });
    await expect(hasCheckpoint(outDir).finally(() => replaceDisk(before))).rejects.toBeInstanceOf(IoError);
  });
});
