// Matrices between the order of their file and that of the model, where the two are not the same (FileLayout of the spec).

import * as ops from "../../ops.ts";
import type { Device, Tensor } from "../../tensor.ts";
import type { FileLayout } from "../spec.ts";

const pairs = { transposed: { in: "keep", out: "keep" }, "transposed pairs": { in: "split", out: "join" } } as const;

const asRow = (t: Tensor): Tensor => t.view(0, [t.shape.length === 2 ? t.shape[0]! : 1, t.shape.at(-1)!]);
const asColumn = (t: Tensor): Tensor => t.view(0, [t.shape[0]!, t.shape.length === 2 ? t.shape[1]! : 1]);

/** into = x, which is as in the file: [in, out] f32 or bf16, or a vector. into [out, in] f32 or bf16, or the vector. */
export function fromFile(device: Device, layout: FileLayout, x: Tensor, into: Tensor): void {
  using from = asRow(x);
  using to = asColumn(into);
  ops.transpose(device, { x: from, y: to, pairs: pairs[layout].in });
}

/** into = x, which is as the model has it: the other way round. */
export function toFile(device: Device, layout: FileLayout, x: Tensor, into: Tensor): void {
  using from = asColumn(x);
  using to = asRow(into);
  ops.transpose(device, { x: from, y: to, pairs: pairs[layout].out });
}
