// The load-balancing loss of several routers as one: E · Σ_e f_e · P_e, with f_e (tokens that chose e, of K each) and P_e (mean
// probability) pooled over layers and tokens. Source: load_balancing_loss_func of transformers, there for softmax routers.
//
// f is known when the last of them has chosen: the forward copies every layer's choices side by side and counts them at its end, the
// backward adds each layer's gradient. It is that of load_balance with the counts of all layers, times K / layers.

import * as ops from "../../ops.ts";
import type { Tensor } from "../../tensor.ts";
import type { Run } from "../run.ts";
import type { Planner, Slot } from "../slots.ts";

/** What each of a pool's routers chooses of, and how many it chooses. */
export interface RouterSizes {
  readonly experts: number;
  readonly topK: number;
}

/** Which of a model's pools: that of the base's routers, or of those that a method brought. */
export type PoolNumber = 0 | 1;

export class BalancePool {
  /** What the sum over layers that `Run.balances` collects is multiplied with: the loss as a part of the model's. */
  readonly factor: number;
  private readonly number: PoolNumber;
  private readonly ids: Slot;
  private readonly parts: readonly Slot[];
  private readonly offsets: Slot;
  private readonly tokens: Slot;
  private readonly pos: Slot;
  private joined = 0;

  constructor(number: PoolNumber, weight: number, layers: number, { experts, topK: K }: RouterSizes, plan: Planner) {
    this.number = number;
    this.factor = (weight * K) / layers;
    this.ids = plan.sharedBackward({ dtype: "i32", perToken: K, rowsPerToken: layers }, "ids");
    this.parts = Array.from({ length: layers }, (_, i) => plan.part(this.ids, i, layers));
    this.offsets = plan.sharedBackward({ dtype: "i32", fixed: [experts + 1] }, "offsets");
    this.tokens = plan.sharedBackward({ dtype: "i32", perToken: 0, rowsPerToken: K * layers }, "tokens");
    this.pos = plan.sharedBackward({ dtype: "i32", perToken: K, rowsPerToken: layers }, "pos");
  }

  /** The next layer's router, from the lowest up. */
  join(): BalancedRouter {
    return new BalancedRouter(this, this.joined++);
  }

  /** @param ids i32 [T, K], what router `i` chose */
  record(run: Run, i: number, ids: Tensor): void {
    if (!run.keep) return;
    ops.cast(run.device, { x: ids, y: run.at(this.parts[i]!) });
    if (i + 1 < this.parts.length) return;
    ops.expertSort(run.device, {
      ids: run.at(this.ids),
      offsets: run.at(this.offsets),
      tokens: run.at(this.tokens),
      pos: run.at(this.pos),
    });
  }

  gradient(run: Run, probs: Tensor, dlogits: Tensor): void {
    const pool = run.balances?.[this.number];
    if (pool) ops.loadBalance(run.device, { probs, offsets: run.at(this.offsets), dlogits, loss: pool.sum, scale: pool.scale });
  }
}

export class BalancedRouter {
  private readonly pool: BalancePool;
  private readonly index: number;

  constructor(pool: BalancePool, index: number) {
    this.pool = pool;
    this.index = index;
  }

  /** In a forward that keeps: what the router chose, ids i32 [T, K]. */
  record(run: Run, ids: Tensor): void {
    this.pool.record(run, this.index, ids);
  }

  /** In the backward: dlogits [T, E] += the gradient of the loss, whose value goes to `run.balances`. */
  gradient(run: Run, probs: Tensor, dlogits: Tensor): void {
    this.pool.gradient(run, probs, dlogits);
  }
}

/** The pools of one composition. */
export class BalancePools {
  private readonly plan: Planner;
  private readonly layers: number;
  private readonly pools: [BalancePool | null, BalancePool | null] = [null, null];

  /** @param layers with routers */
  constructor(plan: Planner, layers: number) {
    this.plan = plan;
    this.layers = layers;
  }

  /** Joins a pool, which begins with its first router. Null: it has no weight. */
  join(number: PoolNumber, weight: number, sizes: RouterSizes): BalancedRouter | null {
    if (weight === 0) return null;
    const name = number === 0 ? "balance" : "addedBalance";
    this.pools[number] ??= new BalancePool(number, weight, this.layers, sizes, this.plan.named(name));
    return this.pools[number].join();
  }

  /** BalancePool.factor of each, 0 where there is none. */
  get factors(): readonly [number, number] {
    return [this.pools[0]?.factor ?? 0, this.pools[1]?.factor ?? 0];
  }
}
