// The numbers of a fixture: tensors of golden.safetensors and its like.

import { openSafetensors } from "../../lib/files/safetensors.ts";

export interface Numbers {
  /** Names of the tensors, in file order. */
  readonly names: readonly string[];
  has(name: string): boolean;
  /** @throws Error no such tensor */
  shape(name: string): readonly number[];
  f32(name: string): Promise<Float32Array>;
  i32(name: string): Promise<Int32Array>;
}

export async function openNumbers(path: string): Promise<Numbers> {
  const file = await openSafetensors(path);
  const read = async (name: string, dtype: "F32" | "I32"): Promise<ArrayBuffer> => {
    const found = file.tensors.get(name)?.dtype;
    if (found !== dtype) throw new Error(`${path}: expected tensor "${name}" of ${dtype}, found ${found ?? "none"}`);
    return new Uint8Array(await file.read(name)).buffer;
  };
  return {
    names: [...file.tensors.keys()],
    has: (name) => file.tensors.has(name),
    shape: (name) => {
      const info = file.tensors.get(name);
      if (!info) throw new Error(`${path}: no tensor "${name}"`);
      return info.shape;
    },
    f32: async (name) => new Float32Array(await read(name, "F32")),
    i32: async (name) => new Int32Array(await read(name, "I32")),
  };
}
