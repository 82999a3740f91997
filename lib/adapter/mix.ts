// Resident adapters that share passes: those whose terms see a row at a time (model/layers/mixture.ts). What a model keeps of a sequence
// depends on what is attached to it (latents, or keys and values of heads), so that a mixture is of adapters with which it is the same: each
// gets the bits that it has alone. And a mixture in use stays as it is: adapters that come meanwhile form the next one.

import type { Attachments } from "../model/layers/attachment.ts";
import { mixedKey, mixtureOf } from "../model/layers/mixture.ts";
import type { Tensor } from "../tensor.ts";

export interface MixMember {
  readonly values: ReadonlyMap<string, Tensor>;
  readonly attachments: Attachments | null;
  /** Answers that are made, or wait to be. */
  readonly uses: number;
}

/** It attaches terms that may be mixed, and replaces nothing. */
export const mixable = ({ values, attachments }: Pick<MixMember, "values" | "attachments">): boolean =>
  attachments?.rowwise === true && attachments.parameters.length === values.size;

export class Mix {
  readonly members = new Map<string, MixMember>();

  get inUse(): boolean {
    return [...this.members.values()].some(({ uses }) => uses > 0);
  }
  get values(): Map<string, Tensor> {
    return new Map([...this.members].flatMap(([name, { values }]) => [...values].map(([key, t]) => [mixedKey(name, key), t] as const)));
  }
  get attachments(): Attachments {
    return mixtureOf(new Map([...this.members].map(([name, { attachments }]) => [name, attachments!])));
  }
}
