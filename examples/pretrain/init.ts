// Writes the random starting point of the embedded model as a Hugging Face folder: config, tokenizer files, weights.
//   npx tsx examples/pretrain/init.ts [--out out/pretrain/init] [--seed 1] [--dtype f32|bf16]
import { copyFileSync, mkdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { ConfigError } from "../../lib/errors.ts";
import { encodeFloats } from "../../lib/files/floats.ts";
import { writeSafetensors, type TensorEntry } from "../../lib/files/safetensors_writer.ts";
import { Rng } from "./rng.ts";
import { modelTensors, parameterCount, readConfig } from "./shapes.ts";

const TOKENIZER_FILES = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"] as const;
const CONFIG_FILES = ["config.json", "generation_config.json"] as const;

const { values } = parseArgs({
  options: {
    out: { type: "string", default: "out/pretrain/init" },
    seed: { type: "string", default: "1" },
    dtype: { type: "string", default: "bf16" },
  },
});
if (values.dtype !== "f32" && values.dtype !== "bf16") {
  throw new ConfigError(`--dtype must be f32 or bf16; found ${JSON.stringify(values.dtype)}`, { where: { flag: "dtype" } });
}
const dtype = values.dtype === "f32" ? "F32" : "BF16";
const folder = dirname(fileURLToPath(import.meta.url));
const tensors = modelTensors(readConfig());

const entries = tensors.map(({ name, shape, std }): TensorEntry => {
  const size = shape.reduce((product, n) => product * n, 1);
  return {
    name,
    dtype,
    shape,
    // Each tensor has its own stream: its values do not depend on which other tensors there are.
    data: () => {
      const rng = new Rng(`init/${values.seed}/${name}`);
      return Promise.resolve(
        encodeFloats(
          Float32Array.from({ length: size }, () => (std === "ones" ? 1 : std * rng.normal())),
          dtype,
        ),
      );
    },
  };
});

mkdirSync(values.out, { recursive: true });
for (const file of CONFIG_FILES) copyFileSync(join(folder, file), join(values.out, file));
for (const file of TOKENIZER_FILES) copyFileSync(join(folder, "..", "embedded", file), join(values.out, file));
const { bytes } = await writeSafetensors(join(values.out, "model.safetensors"), entries, { metadata: { format: "pt" } });
console.log(`${parameterCount(tensors)} parameters, ${bytes} bytes (${values.dtype}) -> ${values.out}`);
