// Rotary embedding of some columns of every head: which table, and how pairs of columns lie.

import * as ops from "../../ops.ts";
import type { Tensor } from "../../tensor.ts";
import type { RopeHandle } from "../rope_table.ts";
import type { Run } from "../run.ts";
import type { RopeSpec } from "../spec.ts";
import type { Composer } from "./composer.ts";

export class Rotary {
  private readonly table: RopeHandle;
  private readonly interleaved: boolean;

  constructor(spec: RopeSpec, c: Composer) {
    this.table = c.rope(spec);
    this.interleaved = spec.interleaved;
  }

  /** y = x with the rotary columns of each head, from column `offset` on, rotated by the angle of the token's position. */
  forward(run: Run, x: Tensor, y: Tensor, heads: number, offset = 0): void {
    this.rotate(run, x, y, heads, offset, false);
  }
  /** The gradient: rotated back. */
  backward(run: Run, dy: Tensor, dx: Tensor, heads: number, offset = 0): void {
    this.rotate(run, dy, dx, heads, offset, true);
  }

  private rotate(run: Run, x: Tensor, y: Tensor, heads: number, offset: number, inverse: boolean): void {
    const { cos, sin, byLength } = run.rope(this.table);
    const positions = byLength ? (run.batch.rowsByLength ?? run.batch.positions) : run.batch.positions;
    ops.rope(run.device, { x, positions, cos, sin, y, heads, offset, interleaved: this.interleaved, inverse });
  }
}
