// The states of a run: whatever byte of the newest is not as it was saved, the one before takes its place and the damage is told; where
// both are damaged, nothing goes on. What was changed and sealed again by somebody is taken as it says, or refused.

import { copyFileSync, cpSync, readFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import type { Parameter } from "../../../lib/model/weights/parameter.ts";
import { allocateState } from "../../../lib/model/weights/training_state.ts";
import type { TrainingState } from "../../../lib/model/weights/training_state.ts";
import { Device } from "../../../lib/tensor.ts";
import { Checkpoints, keptStates } from "../../../lib/train/checkpoint.ts";
import type { RunState } from "../../../lib/train/checkpoint.ts";
import type { Case, Format, Mutated } from "../case.ts";
import { difference, mutateBytes, mutateJson } from "../case.ts";
import { toTree } from "../tree.ts";
import { readJson, resealed } from "./seeds.ts";

type Json = Record<string, unknown>;

const [RUN, STATE] = ["run.json", "state.safetensors"];
const SHAPES: Readonly<Record<string, readonly number[]>> = { "a.weight": [3, 5], "b.weight": [4] };
const FLAT = ["master", "m", "v"] as const;
const progress = (step: number) => ({
  step, evaluated: true, skipped: 1, optimizerSteps: step - 1, cursor: { epoch: 1, row: 2, fingerprint: "rows" }, facts: { seed: 7 }, extensions: [{ step: 1, from: 2, to: 3 }],
  best: { step: 1, loss: 1.25 }, firstEval: 2.5, lastEval: null, tokens: 10 * step, seconds: 1.5,
}); // prettier-ignore

interface Restored {
  readonly run: RunState;
  readonly damages: readonly string[];
  readonly values: readonly number[];
}

const valuesOf = async (state: TrainingState): Promise<number[]> =>
  (await Promise.all(FLAT.map(async (name) => [...(await state[name].readF32())]))).flat();
const expectedValues = (state: TrainingState, step: number): number[] =>
  FLAT.flatMap((_, i) => Array.from({ length: state.size }, (__, j) => step * 1000 + i * 100 + j / 8));

export const checkpoint: Format = {
  name: "checkpoint",
  async open(dir) {
    const device = new Device({ kind: "cpu", threads: 1 });
    const state = allocateState(device, Object.entries(SHAPES).map(([key, shape]) => ({ key, shape }) as unknown as Parameter)); // prettier-ignore
    const [clean, own] = [join(dir, "clean"), join(dir, "own")];
    const checkpoints = new Checkpoints(clean);
    for (const step of [1, 2]) {
      FLAT.forEach((name, i) => state[name].write(Float32Array.from({ length: state.size }, (_, j) => step * 1000 + i * 100 + j / 8)));
      await checkpoints.save(state, progress(step));
    }
    cpSync(clean, own, { recursive: true });
    const [newest = "", before = ""] = (await keptStates(clean)).map((k) => join("checkpoint", basename(k.path)));
    const run = readJson(join(clean, newest, RUN));
    const { sha256: _, ...unsealed } = run;
    return (dice): Case => {
      const way = dice.top.below(8);
      const files = new Map<string, Uint8Array>();
      const steps: string[] = [];
      let sealed: Json | null = null;
      const change = (place: string, name: string, { bytes, steps: own }: Mutated): void => {
        files.set(join(place, name), bytes);
        steps.push(`${place}/${name}`, ...own);
      };
      const bytesOf = (place: string, name: string): Uint8Array => readFileSync(join(clean, place, name));
      if (way < 3) change(newest, STATE, mutateBytes(bytesOf(newest, STATE), dice));
      else if (way < 5) change(newest, RUN, dice.top.once(2) ? mutateBytes(bytesOf(newest, RUN), dice) : mutateJson(toTree(run), dice));
      else if (way < 7) {
        const mutated = mutateJson(toTree(unsealed), dice);
        const again = resealed(mutated.bytes);
        sealed = again?.value ?? null;
        change(newest, RUN, again === null ? mutated : { ...mutated, bytes: Buffer.from(again.text) });
      } else {
        change(newest, STATE, mutateBytes(bytesOf(newest, STATE), dice));
        change(before, RUN, mutateBytes(bytesOf(before, RUN), dice));
      }
      const damaged = (place: string): boolean =>
        [RUN, STATE].some(
          (name) => files.has(join(place, name)) && Buffer.compare(files.get(join(place, name))!, bytesOf(place, name)) !== 0,
        );
      return {
        steps,
        same: !damaged(newest),
        files: Object.fromEntries(files),
        file: own,
        parse: async () => {
          for (const [name, bytes] of files) writeFileSync(join(own, name), bytes);
          try {
            const found = await new Checkpoints(own).restore(state, async () => undefined);
            return { ...found, values: await valuesOf(state) };
          } finally {
            for (const name of files.keys()) copyFileSync(join(clean, name), join(own, name));
          }
        },
        judge: ({ run: found, damages, values }: Restored) => {
          const step = damages.length === 0 ? 2 : 1;
          const d = difference(expectedValues(state, step), values, "values");
          if (d !== null) return d;
          if (damages.length > 1) return `went on with ${damages.length} damages`;
          if (step === 1)
            return damaged(newest) && !damaged(before) ? difference(progress(1), pick(found), "run") : "took the state before without need";
          if (!damaged(newest)) return difference(progress(2), pick(found), "run");
          return sealed === null ? `took a damaged state for good: ${steps.join(", ")}` : difference(sealed, found, "run");
        },
      };
    };
  },
};

const pick = (run: RunState): Json => Object.fromEntries(Object.keys(progress(1)).map((key) => [key, run[key as keyof RunState]]));
