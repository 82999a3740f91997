// A gated MLP that every token passes: a dense layer or the shared expert. It is an expert with all tokens and gate weight 1,
// so it runs on the grouped kernels with their fused SwiGLU epilogues.

import { LayoutError } from "../../errors.ts";
import { sliceKey } from "../../files/slice.ts";
import * as ops from "../../ops.ts";
import type { Tensor } from "../../tensor.ts";
import { act } from "./layer.ts";
import type { RunContext } from "./layer.ts";
import type { SlotTable, Slots } from "../slots.ts";
import type { MlpSpec } from "../spec.ts";

export class Mlp {
  readonly spec: MlpSpec;
  readonly slots: SlotTable;
  readonly saved: ReadonlySet<string>;
  private readonly prefix: string;

  /** @param prefix keeps the slot names of a shared expert apart from the routed experts' */
  constructor(spec: MlpSpec, prefix: string) {
    this.spec = spec;
    this.prefix = prefix;
    this.slots = {
      [`${prefix}H`]: act(2 * spec.hidden), // gate | up before the activation
      [`${prefix}A`]: act(spec.hidden),
    };
    this.saved = new Set([`${prefix}H`]);
  }

  forward(run: RunContext, xn: Tensor, s: Slots, y: Tensor): void {
    const { device, params, precision } = run;
    const { gate, up, down } = this.spec;
    const [h, a] = [s[`${this.prefix}H`]!, s[`${this.prefix}A`]!];
    const offsets = run.batch.bounds;
    ops.groupedGemmNt(device, {
      x: xn,
      w: params.list(`gateUp ${sliceKey(gate)}`, () => [gate, up]),
      segments: 2,
      offsets,
      swiglu: true,
      h: run.keep ? h : null,
      y: a,
      precision,
    });
    ops.groupedGemmNt(device, { x: a, w: params.list(`down ${sliceKey(down)}`, () => [down]), offsets, y, precision });
  }

  trains(run: Pick<RunContext, "params">): boolean {
    const { gate, up, down } = this.spec;
    return run.params.trains(gate) || run.params.trains(up) || run.params.trains(down);
  }

  /** dxn += backward; null when not wanted. Destroys the saved pre-activation. */
  backward(run: RunContext, dy: Tensor, xn: Tensor, s: Slots, dxn: Tensor | null): void {
    const { device, params, precision } = run;
    const { gate, up, down, hidden } = this.spec;
    const h = s[`${this.prefix}H`]!;
    const offsets = run.batch.bounds;
    if (params.trains(down))
      ops.groupedGemmTn(device, {
        dy,
        x: h,
        swigluX: true,
        offsets,
        dw: params.list(`down ${sliceKey(down)}`, () => [down], "grad"),
        groups: [0],
        precision,
      });
    ops.groupedGemmNn(device, { dy, w: params.list(`down ${sliceKey(down)}`, () => [down]), offsets, h, dx: h, swiglu: true, precision });
    if (params.trains(gate) !== params.trains(up))
      throw new LayoutError(`"${sliceKey(gate)}" and "${sliceKey(up)}" of an MLP train together or not at all`, {
        where: { tensor: sliceKey(gate) },
      });
    if (params.trains(gate))
      ops.groupedGemmTn(device, {
        dy: h,
        x: xn,
        offsets,
        dw: params.list(`gateUp ${sliceKey(gate)}`, () => [gate, up], "grad"),
        segments: 2,
        groups: [0],
        precision,
      });
    if (dxn) {
      ops.gemm(device, "nn", { a: h.columns(0, hidden), b: params.value(gate), c: dxn, accumulate: true, precision });
      ops.gemm(device, "nn", { a: h.columns(hidden, 2 * hidden), b: params.value(up), c: dxn, accumulate: true, precision });
    }
  }
}
