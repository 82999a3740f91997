// Options without an effect on what trains are refused, and those with one are not. No GPU.
// Run alone: npx vitest run test/train/effects.test.ts

import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { fullTrainable } from "../../lib/methods/full.ts";
import { loraTrainable } from "../../lib/methods/lora.ts";
import { perftTrainable } from "../../lib/methods/perft.ts";
import { withRouter } from "../../lib/methods/router_mode.ts";
import { requireBalancedRouter } from "../../lib/train/effects.ts";
import { tinyTraining } from "../support/tiny_training.ts";
import type { TinyTraining } from "../support/tiny_training.ts";

let tiny: TinyTraining;
beforeAll(async () => {
  tiny = await tinyTraining();
});
afterAll(() => tiny.close());

describe("a balancing loss", () => {
  it("needs a softmax router that trains", () => {
    const { spec } = tiny.model;
    const refused = { code: "ERR_CONFIG", where: { key: "auxLoss" } };
    const attempt =
      (...args: Parameters<typeof requireBalancedRouter>) =>
      (): void =>
        requireBalancedRouter(...args);
    expect(attempt(spec, tiny.trainable, 0.1)).toThrow(expect.objectContaining({ ...refused, message: expect.stringMatching(/auxLoss 0\.1 has no effect: the router does not train/) as string })); // prettier-ignore
    expect(attempt(spec, fullTrainable(spec), 0.1)).not.toThrow();
    const sigmoid = {
      ...spec,
      layers: spec.layers.map((l) =>
        l.mlp.kind === "moe" ? { ...l, mlp: { ...l.mlp, rule: { ...l.mlp.rule, score: "sigmoid" as const } } } : l,
      ),
    };
    expect(attempt(sigmoid, fullTrainable(spec), 0.1)).toThrow(/this model's score is sigmoid/);
    // Terms beside the routers, alone and straight through, of LoRA's targets and of the routers' mode.
    const lora = (targets: string[], router?: "ste") => withRouter(spec, loraTrainable(spec, { rank: 2, targets }, 1), { router }, 1);
    for (const t of [lora(["router"]), lora(["router", "attention"], "ste"), withRouter(spec, tiny.trainable, { router: "lora" }, 1)])
      expect(attempt(spec, t, 0.1)).not.toThrow();
    expect(attempt(spec, lora(["attention"]), 0.1)).toThrow(/the router does not train/);
    // A router of the method's own is none of the base's.
    expect(attempt(spec, perftTrainable(spec, { variant: "R", rank: 2 }, 1), 0.1)).toThrow(/the router does not train/);
    const mixed = { ...spec, layers: [sigmoid.layers[0]!, ...spec.layers.slice(1)] };
    expect(attempt(mixed, fullTrainable(spec), 0.1)).toThrow(/auxLoss 0\.1 has no effect/);
  });
});
