// What depends on a token's position alone, as tables for positions 0 … P−1, in f32 as the families' reference computes it: cos and
// sin of the rotary angles (the f32 product position · inverse frequency), factors of queries. Tables are made when a batch is
// staged; layers hold handles. The sizes of the chunks that documents are attended in are numbered here too: a batch says where they begin.

import type { Device, Tensor } from "../tensor.ts";
import type { QueryFactorSpec, RopeSpec } from "./spec.ts";

export interface RopeTable {
  readonly cos: Tensor;
  readonly sin: Tensor;
  /** Rows 2p and 2p + 1 are position p, of documents up to the spec's `beyond.length` and of longer ones; else row p is. */
  readonly byLength: boolean;
}

/** Which of a model's tables. */
export interface RopeHandle {
  readonly index: number;
}

/** The distinct rotary embeddings (query factors, chunks) of a model, numbered in the order in which its layers ask for them. */
export class RopeIndex {
  readonly specs: RopeSpec[] = [];
  readonly queryFactors: QueryFactorSpec[] = [];
  readonly chunks: number[] = [];

  /** Tokens of a document from which on its rotary table is another, the same in all layers; null: in none. */
  get length(): number | null {
    return this.specs.find((s) => s.beyond)?.beyond?.length ?? null;
  }

  handle(spec: RopeSpec): RopeHandle {
    let index = this.specs.findIndex((s) => sameAngles(s, spec));
    if (index < 0) index = this.specs.push(spec) - 1;
    return { index };
  }
  queryFactor(spec: QueryFactorSpec): RopeHandle {
    const { beta, length, offset } = spec;
    let index = this.queryFactors.findIndex((s) => s.beta === beta && s.length === length && s.offset === offset);
    if (index < 0) index = this.queryFactors.push(spec) - 1;
    return { index };
  }
  chunk(size: number): RopeHandle {
    let index = this.chunks.indexOf(size);
    if (index < 0) index = this.chunks.push(size) - 1;
    return { index };
  }
}

/** The tables of a model for one batch. */
export interface PositionTables {
  readonly ropes: readonly RopeTable[];
  /** f32 [P] each. */
  readonly queryFactors: readonly Tensor[];
}

/** Equal tables: the pairing of the columns (interleaved) is the op's business. */
function sameAngles(a: RopeSpec, b: RopeSpec): boolean {
  return a === b || (sameRotation(a, b) && (a.beyond && b.beyond ? sameRotation(a.beyond, b.beyond) : a.beyond === b.beyond));
}
type Rotation = Pick<RopeSpec, "inverseFrequencies" | "factor">;
function sameRotation(a: Rotation, b: Rotation): boolean {
  const [x, y] = [a.inverseFrequencies, b.inverseFrequencies];
  return a.factor === b.factor && x.length === y.length && x.every((f, i) => f === y[i]);
}

/** The tables of a RopeIndex on a device, grown on demand. */
export class RopeTables {
  private readonly device: Device;
  private readonly index: RopeIndex;
  private tables: PositionTables = { ropes: [], queryFactors: [] };
  private positions = 0;

  constructor(device: Device, index: RopeIndex) {
    this.device = device;
    this.index = index;
  }

  /** All tables, for positions below `positions` at least. */
  upTo(positions: number): PositionTables {
    if (positions <= this.positions) return this.tables;
    const P = Math.max(positions, this.positions * 2, 64);
    this.dispose();
    const { device, index } = this;
    this.tables = {
      ropes: index.specs.map((spec) => makeTable(device, spec, P)),
      queryFactors: index.queryFactors.map((spec) => device.tensor("f32", [P], queryFactors(spec, P))),
    };
    this.positions = P;
    return this.tables;
  }

  dispose(): void {
    for (const t of [...this.tables.ropes.flatMap(({ cos, sin }) => [cos, sin]), ...this.tables.queryFactors]) t.dispose();
    this.tables = { ropes: [], queryFactors: [] };
    this.positions = 0;
  }
}

function queryFactors({ beta, length, offset }: QueryFactorSpec, P: number): Float32Array {
  return Float32Array.from({ length: P }, (_, t) => 1 + beta * Math.log(1 + Math.floor((t + offset) / length)));
}

function makeTable(device: Device, spec: RopeSpec, P: number): RopeTable {
  const half = spec.inverseFrequencies.length;
  const kinds: readonly Rotation[] = spec.beyond ? [spec, spec.beyond] : [spec];
  const rows = P * kinds.length;
  const cos = new Float32Array(rows * half);
  const sin = new Float32Array(rows * half);
  for (let row = 0; row < rows; row++) {
    const { inverseFrequencies, factor } = kinds[row % kinds.length]!;
    const t = Math.floor(row / kinds.length);
    for (let i = 0; i < half; i++) {
      const angle = Math.fround(t * inverseFrequencies[i]!);
      cos[row * half + i] = Math.fround(Math.cos(angle)) * factor;
      sin[row * half + i] = Math.fround(Math.sin(angle)) * factor;
    }
  }
  const table = (values: Float32Array): Tensor => device.tensor("f32", [rows, half], values);
  return { cos: table(cos), sin: table(sin), byLength: spec.beyond !== undefined };
}
