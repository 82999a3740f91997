// What an adapter's attached tensors belong to: its method, as the manifest keeps it, attached to a model again.

import { z } from "zod";
import { ConfigError, LayoutError } from "../errors.ts";
import { checkSchema } from "../files/json.ts";
import type { Attachments } from "../model/layers/attachment.ts";
import type { ModelSpec } from "../model/spec.ts";
import { loraTrainable } from "./lora.ts";

const MANIFEST_METHOD = "adapter.json, method";
const Lora = z.strictObject({ type: z.literal("lora"), rank: z.int().min(1), alpha: z.number().gt(0), targets: z.array(z.string()) });

/**
 * The attachments of a method; null when it attaches nothing.
 * @param method as adapter.json has it
 * @param tensors names and shapes of what the adapter attached
 * @throws LayoutError options that this method does not have, or other tensors than it would bring to this model
 */
export function attachmentsOf(
  spec: ModelSpec,
  method: { readonly type: string },
  tensors: ReadonlyMap<string, { readonly shape: readonly number[] }>,
): Attachments | null {
  if (tensors.size === 0) return null;
  if (method.type !== "lora")
    throw new LayoutError(`adapter: attached tensors of method "${method.type}" are not known to this version; known: lora`, {
      where: { key: "method.type" },
    });
  const attachments = loraOf(spec, method);
  const expected = new Map((attachments?.parameters ?? []).map((p) => [p.key, p.shape]));
  for (const [key, shape] of expected) {
    const found = tensors.get(key);
    if (found?.shape.join() !== shape.join())
      throw new LayoutError(
        `adapter: expected "${key}" [${shape.join(", ")}], found ${found ? `[${found.shape.join(", ")}]` : "no such tensor"}`,
        { where: { tensor: key } },
      );
  }
  for (const key of tensors.keys())
    if (!expected.has(key))
      throw new LayoutError(`adapter: "${key}" is not one of the tensors of its method "${method.type}"`, { where: { tensor: key } });
  return attachments;
}

function loraOf(spec: ModelSpec, method: object): Attachments | null {
  const options = checkSchema(Lora, method, MANIFEST_METHOD, LayoutError);
  try {
    return loraTrainable(spec, options, 0).attachments;
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    throw new LayoutError(`${MANIFEST_METHOD}: ${error.message}`, { where: { ...error.where, file: MANIFEST_METHOD }, cause: error });
  }
}
