// How a call of the case tables is converted for a device with bf16 activations. Knows no test runner: the benchmark converts too.

import type { OpField } from "../../lib/native.ts";
import { filled, toBf16 } from "./host.ts";
import type { Arg, Args, HostTensor } from "./host.ts";
import { fieldsOf } from "./schema.ts";

const isTensor = (a: Arg): a is HostTensor => typeof a === "object" && a !== null && "dtype" in a;

/** The same numbers rounded to bf16; tensors of other dtypes as they are. */
export function asBf16(t: HostTensor): HostTensor {
  if (t.dtype !== "f32") return t;
  if (t.fill && !t.pad) return filled("bf16", t.shape, t.fill);
  return { ...t, dtype: "bf16", values: Float32Array.from(t.values, toBf16) };
}

export const takesActivations = (op: string): boolean => op === "gemm" || fieldsOf(op).some((f) => f.activation);

/** Which arguments a device with bf16 activations holds in bf16: activations and the weights of products. */
function becomesBf16(op: string, { name, activation }: OpField, args: Args): boolean {
  if (activation) return true;
  if (op === "gemm") return name === "a" || name === "b" || name === "residual" || (name === "c" && args.mode !== 2);
  return name === "w" || name === "terms" || (op === "linear_cross_entropy" && name === "b");
}

/** A call as such a device gets it: products take bf16 operands at precision 1; parameter gradients and statistics stay f32. */
export function bf16Args(op: string, args: Args): Args {
  if (!takesActivations(op)) return args;
  const converted: Record<string, Arg> = { ...args };
  for (const field of fieldsOf(op)) {
    const { name } = field;
    const a = args[name];
    if (name === "precision") converted[name] = 1;
    else if (a && becomesBf16(op, field, args)) {
      if (Array.isArray(a)) converted[name] = (a as readonly HostTensor[]).map(asBf16);
      else if (isTensor(a)) converted[name] = asBf16(a);
    }
  }
  return converted;
}
