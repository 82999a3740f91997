// A run's full state on disk, so that a killed run resumes to the same bits: f32 masters and moments of what trains, the
// optimizer's step, the data cursor, the best held-out loss. Its files change together (writeGroupAtomic): at every moment the
// directory holds one whole state, the previous one or the new one.
//
//   <outDir>/checkpoint/state.safetensors   master, m, v (flat) · <outDir>/checkpoint/run.json

import { existsSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { ConfigError, LayoutError } from "../errors.ts";
import { finishGroup, writeFileAtomic, writeGroupAtomic } from "../files/atomic.ts";
import { checkSchema, formatJson, readJsonFile } from "../files/json.ts";
import { openSafetensors } from "../files/safetensors.ts";
import { writeSafetensors } from "../files/safetensors_writer.ts";
import type { TrainingState } from "../model/weights/training_state.ts";

const Run = z.strictObject({
  format: z.literal("esft-run"),
  version: z.literal(1),
  step: z.int().min(0),
  /** The held-out loss of this step was taken (or none is due). */
  evaluated: z.boolean(),
  /** Updates skipped in a row for a non-finite gradient. */
  skipped: z.int().min(0),
  optimizerSteps: z.int().min(0),
  cursor: z.strictObject({ epoch: z.int(), row: z.int(), fingerprint: z.string() }),
  /** Hash of everything that must not change between the parts of a run. */
  fingerprint: z.string(),
  best: z.strictObject({ step: z.int(), loss: z.number() }).nullable(),
  firstEval: z.number().nullable(),
  lastEval: z.number().nullable(),
  tokens: z.int(),
  seconds: z.number(),
  parameters: z.array(z.strictObject({ key: z.string(), shape: z.array(z.int()), offset: z.int() })),
});
export type RunState = z.output<typeof Run>;

const GROUP = "checkpoint";
const STATE = "state.safetensors";
export const CHUNK = 1 << 24; // elements moved at a time: 64 MiB

const checkpointDir = (outDir: string): string => join(outDir, "checkpoint");

/** Completes a save that was interrupted after its commit point, and says whether there is a checkpoint. */
export async function hasCheckpoint(outDir: string): Promise<boolean> {
  await finishGroup(checkpointDir(outDir), GROUP);
  return existsSync(join(checkpointDir(outDir), "run.json"));
}

export async function saveCheckpoint(
  outDir: string,
  state: TrainingState,
  run: Omit<RunState, "format" | "version" | "parameters">,
): Promise<string> {
  const dir = checkpointDir(outDir);
  const manifest: RunState = {
    format: "esft-run",
    version: 1,
    ...run,
    parameters: state.parameters.map((p, i) => ({ key: p.key, shape: [...p.shape], offset: state.offsets[i]! })),
  };
  await writeGroupAtomic(
    dir,
    GROUP,
    async (temp) => {
      const entries = (["master", "m", "v"] as const).map((name) => ({
        name,
        dtype: "F32" as const,
        shape: [state.size],
        data: async function* () {
          for (let at = 0; at < state.size; at += CHUNK) {
            using part = state[name].view(at, [Math.min(CHUNK, state.size - at)]);
            yield new Uint8Array(await part.readBytes());
          }
        },
      }));
      await writeSafetensors(join(temp, STATE), entries, { metadata: { format: "esft-run" }, hash: false });
      await writeFileAtomic(join(temp, "run.json"), formatJson(manifest));
    },
    { bytes: state.size * 12 },
  );
  return dir;
}

/** Restores masters and moments of a checkpoint that `hasCheckpoint` found. @throws ConfigError the run was made with other options · LayoutError damaged files */
export async function restoreCheckpoint(outDir: string, state: TrainingState, fingerprint: string): Promise<RunState> {
  const dir = checkpointDir(outDir);
  const path = join(dir, "run.json");
  const run = checkSchema(Run, await readJsonFile(path, LayoutError), path);
  if (run.fingerprint !== fingerprint)
    throw new ConfigError(
      `${dir}: the checkpoint belongs to a run with other options, data or base model; resume with the same ones, or choose another outDir`,
      { where: { file: dir, expected: run.fingerprint, found: fingerprint } },
    );
  const found = run.parameters.map((p) => `${p.key} ${p.shape.join("x")} ${p.offset}`).join("\n");
  const wanted = state.parameters.map((p, i) => `${p.key} ${p.shape.join("x")} ${state.offsets[i]}`).join("\n");
  if (found !== wanted) throw new LayoutError(`${dir}: the checkpoint trains other parameters than this run`, { where: { file: dir } });
  const file = await openSafetensors(join(dir, STATE));
  for (const name of ["master", "m", "v"] as const) {
    const info = file.tensors.get(name);
    if (!info || info.dtype !== "F32" || info.shape.join() !== String(state.size))
      throw new LayoutError(
        `${file.path}: tensor "${name}" must be F32 [${state.size}], found ${info ? `${info.dtype} [${info.shape.join(", ")}]` : "nothing"}`,
        { where: { file: file.path, tensor: name } },
      );
    let at = 0;
    for await (const bytes of file.chunks(name, CHUNK * 4)) {
      const values = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
      using part = state[name].view(at, [values.length]);
      part.write(values);
      at += values.length;
    }
  }
  return run;
}
