// The case tables with bf16 activations: how close an output has to come (bf16_args.ts says how a call is converted).

import { expect } from "vitest";
import type { Args } from "./host.ts";
import type { OpCase, Output } from "./support.ts";

/** Outputs behind a product whose operand the op computes itself and rounds to bf16 (or may): an operand beside a rounding
 *  boundary moves by one unit. */
function roundsOperands(op: string, output: string, args: Args): boolean {
  switch (op) {
    case "grouped_gemm_nt":
      return args.act !== 0 && output === "y";
    case "grouped_gemm_tn":
      return args.x_act !== 0 || Boolean(args.dy_scale);
    case "attention":
    case "attention_cached":
      return output === "out";
    case "attention_backward":
      return true;
    case "linear_cross_entropy":
      return output !== "loss" && output !== "row_loss" && output !== "correct";
    default:
      return false;
  }
}

/**
 * Every element within the error of f32 sums of length k, plus one unit in the last place of a bf16 output (it is rounded once),
 * plus four bf16 units of the tensor's largest value where operands are rounded on the way.
 */
export function expectBf16Close(
  c: OpCase,
  args: Args,
  label: string,
  output: Pick<Output, "name" | "dtype" | "values">,
  want: ArrayLike<number>,
): void {
  const name = output.name.replace(/\[.*/, "");
  const { values, dtype } = output;
  expect(values.length, `${label} ${output.name}: length`).toBe(want.length);
  let scale = c.scale ?? 0;
  for (let i = 0; i < want.length; i++) if (Number.isFinite(want[i]!)) scale = Math.max(scale, Math.abs(want[i]!));
  const exact = c.eps?.[name] === "exact" || dtype === "i32" || dtype === "i64" || dtype === "u8";
  const sums = exact ? 0 : 8 * 2 ** (dtype === "f64" && c.eps?.[name] !== "f32" ? -52 : -23) * Math.sqrt(Math.max(1, c.k ?? 1)) * scale;
  // A residual is added to the rounded product.
  const operands = roundsOperands(c.op, name, args) || Boolean(args.residual) ? 4 * 2 ** -8 * scale : 0;
  const last = dtype === "bf16" && !exact ? 2 ** -7 : 0;
  for (let i = 0; i < want.length; i++) {
    const [g, w] = [values[i]!, want[i]!];
    if (Object.is(g, w) || g === w) continue;
    const limit = sums + operands + last * Math.abs(w);
    if (!(Math.abs(g - w) <= limit))
      throw new Error(
        `${label} ${output.name}[${i}]: ${g}, expected ${w} within ${limit.toExponential(2)} (${dtype}, k = ${c.k ?? 1}, scale ${scale.toPrecision(4)})`,
      );
  }
}
