// Options of a run that would have no effect on what it trains: refused before anything is written.

import { ConfigError } from "../errors.ts";
import type { TrainableSpec } from "../methods/method.ts";
import { trainedRouters } from "../methods/router_mode.ts";
import type { ModelSpec } from "../model/spec.ts";
import { moeOf } from "../model/spec.ts";
import type { AskedOptions } from "../options.ts";

/** As far as the steps are known. @throws ConfigError the first option without an effect, with its key */
export function requireEffects(
  spec: ModelSpec,
  trainable: TrainableSpec,
  { auxLoss, steps = Infinity }: Pick<AskedOptions, "auxLoss" | "steps">,
): void {
  if (auxLoss > 0) requireBalancedRouter(spec, trainable, auxLoss);
  const { reallocation } = trainable;
  if (reallocation && reallocation.warmup >= steps)
    throw new ConfigError(
      `reallocateWarmup ${reallocation.warmup} leaves no re-allocation within ${steps} steps: lower it, or leave reallocate out`,
      { where: { key: "method.reallocateWarmup" } },
    );
}

/** @throws ConfigError a load-balancing loss that no router would feel */
export function requireBalancedRouter(spec: ModelSpec, trainable: TrainableSpec, auxLoss: number): void {
  const fail = (why: string): never => {
    throw new ConfigError(`auxLoss ${auxLoss} has no effect: ${why}`, { where: { key: "auxLoss" } });
  };
  const scores = trainedRouters(spec, trainable).map((layer) => moeOf(spec, layer)!.rule.score);
  if (scores.length === 0)
    fail(
      "the router does not train; set it to 0, or train it (router train, lora or ste, the non-expert modules, or the target router of LoRA)",
    );
  const other = scores.find((score) => score !== "softmax");
  if (other !== undefined) fail(`the load-balancing loss is that of softmax routers, this model's score is ${other}; set it to 0`);
}
