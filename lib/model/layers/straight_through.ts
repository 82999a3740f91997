// The straight-through gradient of a router (DenseMixer): the forward is sparse as ever, the backward gives the routing weights the
// gradient of a dense mixture, out = sg(sparse) + dense − sg(dense) with dense = Σ_e w_e·E_e(x) over all experts and sg a constant.
//
// What that needs is g[t, e] = ⟨dy[t], E_e(x[t])⟩ for every expert: the backward runs each of them once more on all tokens, one expert at
// a time, so that memory is a pre-activation and an activation of T rows whatever E is, and 2·E numbers per token. The gradients of the
// experts themselves, and through them of x, are those of the tokens that were routed to them, as without. The formula of w and
// its gradient per score rule: csrc/ops/topk_route.h, dense. Not defined, and refused: SparseMixer, weights that multiply inputs.
// Not served, and refused: experts with modules of a method inside, whose outputs these products do not include.

import { ConfigError } from "../../errors.ts";
import * as ops from "../../ops.ts";
import type { Activation } from "../../ops.ts";
import type { Tensor } from "../../tensor.ts";
import type { Run } from "../run.ts";
import { act, f32 } from "../slots.ts";
import type { Slot } from "../slots.ts";
import type { ModelSpec, MoeSpec } from "../spec.ts";
import { moeLayers, moeOf } from "../spec.ts";
import type { Composer } from "./composer.ts";
import { ExpertMatrices, SWIGLU } from "./experts.ts";

const EVERY = new Int32Array(0);

/** @param terms the routers train by terms beside them */
const refuse = (why: string, layer: number, terms: boolean, also = ""): never => {
  const instead = terms ? `leave router out (the routers train by their terms without it)${also}` : 'take router "train"';
  throw new ConfigError(`router "ste" (straight-through) is not possible here: ${why}; ${instead}`, {
    where: { key: "method.router", layer },
  });
};

/** @param terms the routers train by terms beside them @throws ConfigError the model has no straight-through gradient, with the reason */
export function requireStraightThrough(spec: ModelSpec, terms: boolean): void {
  for (const layer of moeLayers(spec)) {
    const { rule, weighted } = moeOf(spec, layer)!;
    if (rule.score === "sparseMixer")
      refuse(
        "the weights of SparseMixer are each a softmax over what is near a chosen expert, and an expert that was not chosen has none",
        layer,
        terms,
      );
    if (weighted === "inputs")
      refuse(
        "this model's weights multiply what experts read, and an expert's output is not linear in that, so that there is no dense mixture",
        layer,
        terms,
      );
  }
}

export class StraightThrough {
  private readonly experts: readonly ExpertMatrices[];
  private readonly activation: Activation;
  private readonly h_T2F: Slot;
  private readonly a_TF: Slot;
  private readonly g_ET: Slot;
  private readonly rows: readonly Slot[];
  private readonly g_TE: Slot;

  /**
   * @param inside number of modules inside the experts @param terms the router trains by terms
   * @throws ConfigError there are some inside
   */
  constructor(
    { experts, expertHidden: F, activation = SWIGLU }: MoeSpec,
    { layer, inside, terms }: { readonly layer: number; readonly inside: number; readonly terms: boolean },
    c: Composer,
  ) {
    if (inside > 0)
      refuse(
        "the method has modules inside the routed experts, which the dense products of its backward do not include",
        layer,
        terms,
        ", or take the experts out of the targets",
      );
    const E = experts.length;
    this.activation = activation;
    this.experts = experts.map((e) => new ExpertMatrices([e], c));
    this.h_T2F = c.plan.backward(act(2 * F), "h");
    this.a_TF = c.plan.backward(act(F), "a");
    this.g_ET = c.plan.backward({ dtype: "f32", across: E }, "dweightsByExpert");
    this.rows = experts.map((_, e) => c.plan.row(this.g_ET, e));
    this.g_TE = c.plan.backward(f32(E), "dweights");
  }

  /** ⟨dy[t], E_e(x[t])⟩ as [T, E]. */
  dweights(run: Run, dy: Tensor, x: Tensor): Tensor {
    const { device, precision, batch } = run;
    const { activation } = this;
    const [h, a, offsets] = [run.at(this.h_T2F), run.at(this.a_TF), batch.bounds];
    this.experts.forEach(({ gateUp, gateUpBias, segments, down, downBias }, e) => {
      ops.groupedGemmNt(device, {
        x,
        rows: null,
        w: gateUp.tensors,
        bias: gateUpBias.value,
        segments,
        activation,
        h,
        offsets,
        y: a,
        precision,
      });
      // ⟨dy·W_down, a⟩ + ⟨dy, bias⟩, as the sparse backward takes it; the gradient of h is not wanted.
      const through = { w: down.tensors, bias: downBias.value, h, gate: null, dgate: run.at(this.rows[e]!), activation };
      ops.groupedGemmNn(device, { dy, rows: null, ...through, offsets, dx: h, groups: EVERY, precision });
    });
    const g = run.at(this.g_TE);
    ops.transpose(device, { x: run.at(this.g_ET), y: g });
    return g;
  }
}
