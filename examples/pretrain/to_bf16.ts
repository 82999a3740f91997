// Writes a checkpoint of f32 tensors as bf16, rounded to nearest even: the form that the embedded model is committed in.
//   npx tsx examples/pretrain/to_bf16.ts [--from out/pretrain/model] [--out examples/embedded]
import { copyFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { castFloats } from "../../lib/files/floats.ts";
import { writeSafetensors, type TensorEntry } from "../../lib/files/safetensors_writer.ts";
import { openCheckpoint } from "../../lib/index.ts";

const { values } = parseArgs({
  options: { from: { type: "string", default: "out/pretrain/model" }, out: { type: "string", default: "examples/embedded" } },
});
const checkpoint = await openCheckpoint(values.from);
const entries = [...checkpoint.tensors.values()].map(({ name, dtype, shape }): TensorEntry => ({
  name,
  dtype: "BF16",
  shape,
  data: async () => castFloats(await checkpoint.read(name), dtype, "BF16"),
}));
const { bytes } = await writeSafetensors(join(values.out, "model.safetensors"), entries, { metadata: { format: "pt" } });
for (const file of ["config.json", "generation_config.json"]) copyFileSync(join(values.from, file), join(values.out, file));
console.log(`${entries.length} tensors, ${bytes} bytes -> ${values.out}`);
