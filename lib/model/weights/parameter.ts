// A parameter: what layers hold of a weight. It is either one of the base's, or one that a method attached.
//
// Frozen: `value` is what the model computes with, master and grad are null. Training: an f32 master copy and a gradient exist;
// `value` is the master, or its bf16 copy on a device whose products read bf16 only.

import { LayoutError } from "../../errors.ts";
import type { TensorSlice } from "../../files/slice.ts";
import type { DType, Tensor } from "../../tensor.ts";
import { TensorList } from "../../tensor.ts";
import type { ParameterPlace, ParameterRole } from "../spec.ts";
import type { StoredWeight } from "./resident.ts";

export class Parameter {
  /** Name in checkpoints of a run and in adapters: of a base parameter the key of its slice. */
  readonly key: string;
  readonly shape: readonly number[];
  readonly place: ParameterPlace;
  /** It gets a gradient and is updated. */
  trains = false;
  master: Tensor | null = null;
  grad: Tensor | null = null;
  private current: Tensor | null = null;

  constructor(key: string, shape: readonly number[], place: ParameterPlace) {
    this.key = key;
    this.shape = shape;
    this.place = place;
  }

  get role(): ParameterRole {
    return this.place.role;
  }
  /** Decoder layer, −1 for the embedding, the layer count for final norm and head. */
  get layer(): number {
    return this.place.layer;
  }

  /** What the model computes with. @throws LayoutError in a model that was only described, not loaded */
  get value(): Tensor {
    if (!this.current) throw new LayoutError(`parameter "${this.key}" has no values`, { where: { tensor: this.key } });
    return this.current;
  }
  set value(tensor: Tensor) {
    this.current = tensor;
  }
}

/** A parameter of the checkpoint. */
export class BaseParameter extends Parameter {
  /** Where it lies in the checkpoint. */
  readonly weight: StoredWeight;
  /** The checkpoint's values; of an `inPlace` parameter that trains or is replaced, the values of now. */
  readonly base: Tensor;
  /** The product weights of a device with bf16 activations: other values are written over the base ones, in bf16. */
  readonly inPlace: boolean;

  constructor(weight: StoredWeight, base: Tensor, inPlace: boolean) {
    super(weight.key, weight.shape, weight);
    this.weight = weight;
    this.base = base;
    this.inPlace = inPlace;
    this.value = base;
  }

  get ref(): TensorSlice {
    return this.weight.ref;
  }
  /** Dtype in the checkpoint. */
  get stored(): DType {
    return this.weight.stored;
  }
}

/** What a method brings beside the base: its name, shape, first values, and the base parameter that it belongs to. */
export interface AttachedSpec {
  readonly key: string;
  readonly shape: readonly number[];
  /** What of it trains at any time, where that is less. */
  readonly live?: readonly number[];
  readonly place: ParameterPlace;
  /** The base parameter that it stands beside, when it is one. */
  readonly target?: TensorSlice;
  /** Row-major f32 values to start from. */
  readonly initial: () => Float32Array;
}

/** Several parameters as one operand; built when it is first used, and again after values or the choice of what trains changed. */
export class ParameterList {
  readonly parameters: readonly Parameter[];
  private readonly what: "value" | "grad";
  private readonly built: (list: ParameterList) => void;
  private list: TensorList | null = null;

  /** @param built told when the list takes memory: whoever changes values drops it */
  constructor(parameters: readonly Parameter[], what: "value" | "grad", built: (list: ParameterList) => void) {
    this.parameters = parameters;
    this.what = what;
    this.built = built;
  }

  get tensors(): TensorList {
    if (this.list) return this.list;
    const tensors = this.parameters.map((p) => {
      if (this.what === "value") return p.value;
      if (!p.grad) throw new LayoutError(`parameter "${p.key}" has no gradient`, { where: { tensor: p.key } });
      return p.grad;
    });
    this.list = new TensorList(tensors);
    this.built(this);
    return this.list;
  }

  drop(): void {
    this.list?.dispose();
    this.list = null;
  }
}

/** Where a model that is composed finds its parameters. */
export interface ParameterSource {
  /** The parameter of a slice that the spec names. */
  get(ref: TensorSlice): Parameter;
  /** One that a method attached. */
  attached(key: string): Parameter;
  list(parameters: readonly Parameter[], what: "value" | "grad"): ParameterList;
}
