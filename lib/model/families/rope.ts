// Inverse frequencies of the rotary embedding from `rope_parameters` (transformers 5) or `rope_theta` + `rope_scaling`
// (published checkpoints). Formulas: RoFormer (arXiv 2104.09864), YaRN (arXiv 2309.00071), LongRoPE (arXiv 2402.13753), linear
// interpolation, Llama 3, NTK by a fixed alpha, and the proportional one of Gemma 4.

import { ConfigError } from "../../errors.ts";
import type { RopeSpec } from "../spec.ts";
import { ConfigReader, ranges } from "./config.ts";

const f32 = Math.fround;

const ropeTypes = ["default", "dynamic", "linear", "llama3", "yarn", "longrope"] as const;

/** m(s, k) = 0.1·k·ln(s) + 1 for s > 1: YaRN's attention factor. */
export function yarnMscale(factor: number, mscale = 1): number {
  return factor <= 1 ? 1 : 0.1 * mscale * Math.log(factor) + 1;
}

export interface RopeConfig {
  readonly spec: RopeSpec;
  /** What the scores are multiplied with beside 1/√d: m(factor, mscale_all_dim)² under yarn, else 1. */
  readonly scoreFactor: number;
}

export interface RopeOptions {
  /** Pairs are neighbours (2i, 2i + 1); else halves (i, i + dim / 2). */
  readonly interleaved?: boolean;
  /** Where config.json has none. */
  readonly theta?: number;
  /** Share of `dim` that is rotated, where config.json has none. */
  readonly partial?: number;
  /** `partial_rotary_factor` is a share of this many dimensions and must give `headDim`: all of these are rotated. */
  readonly partialOf?: number;
  /** rope_parameters holds an object for each kind of layer: this one's. */
  readonly layerType?: string;
  /** Rope types that are served, where not all are. */
  readonly types?: readonly string[];
  /** "dynamic" stretches the base by `alpha`: θ · alpha^(d / (d − 2)). */
  readonly alpha?: boolean;
  /**
   * longrope multiplies cos and sin with short_mscale and long_mscale of config.json, and divides by the short factors at any length: so
   * transformers computes it (5.17), where the model's first code took the long ones for long documents.
   */
  readonly mscales?: boolean;
}

/** @param dim dimensions of which the first `partial_rotary_factor` are rotated */
export function ropeFromConfig(reader: ConfigReader, headDim: number, options: RopeOptions = {}): RopeConfig {
  const { interleaved = false } = options;
  const all = reader.object("rope_parameters");
  const { layerType } = options;
  const parameters = all && layerType !== undefined ? reader.section("rope_parameters").object(layerType) : all;
  const scaling = parameters ?? reader.object("rope_scaling");
  const place = layerType === undefined ? "rope_parameters" : `rope_parameters.${layerType}`;
  const p = new ConfigReader(scaling ?? {}, `${reader.source} ${parameters ? place : "rope_scaling"}`);
  const from = (key: string): ConfigReader => ((parameters?.[key] ?? null) === null ? reader : p);
  const theta = from("rope_theta").number("rope_theta", ranges.theta, options.theta ?? 10000);
  const { partialOf: whole = headDim } = options;
  const partial = from("partial_rotary_factor").number("partial_rotary_factor", [1e-3, 1], options.partial ?? headDim / whole);
  const type = scaling ? String(scaling["rope_type"] ?? scaling["type"] ?? "default") : "default";
  const types = options.types ?? ropeTypes;
  if (!types.includes(type))
    throw new ConfigError(
      `${p.source}: "rope_type" must be ${types.map((t) => JSON.stringify(t)).join(" or ")}, found ${JSON.stringify(type)} (not supported)`,
      { where: { file: reader.source, key: "rope_type" } },
    );
  if (type === "proportional") return { spec: { ...proportional(p, headDim, theta, partial), interleaved }, scoreFactor: 1 };
  const dim = Math.trunc(whole * partial);
  if (options.partialOf !== undefined && dim !== headDim)
    from("partial_rotary_factor").fail("partial_rotary_factor", `${headDim / whole}: ${headDim} of ${whole} dimensions`);
  if (dim % 2 !== 0 || dim === 0)
    reader.fail(
      "partial_rotary_factor",
      `a share of ${headDim} dimensions that makes an even number of them (${headDim} · ${partial} gives ${dim})`,
    );
  const stretched = options.alpha && type === "dynamic" ? theta * alphaFactor(p, dim) : theta;
  const base = Array.from({ length: dim / 2 }, (_, i) => f32(1 / f32(f32(stretched) ** f32((2 * i) / dim))));
  switch (type) {
    case "dynamic": // as it begins: frequencies change beyond max_position_embeddings only, where no document reaches
    case "default":
      return { spec: { inverseFrequencies: base, factor: 1, interleaved }, scoreFactor: 1 };
    case "linear": {
      const factor = p.number("factor", ranges.stretch);
      return { spec: { inverseFrequencies: base.map((x) => f32(x / factor)), factor: 1, interleaved }, scoreFactor: 1 };
    }
    case "llama3": {
      const factor = p.number("factor", ranges.stretch);
      const low = p.number("low_freq_factor", ranges.factor);
      const high = p.number("high_freq_factor", ranges.factor);
      if (high < low) p.fail("high_freq_factor", `at least low_freq_factor ${low}`);
      const original = p.int("original_max_position_embeddings", undefined, ranges.positions);
      const inverse = base.map((x) => {
        const wave = (2 * Math.PI) / x;
        if (wave > original / low) return f32(x / factor);
        if (wave < original / high) return x;
        // Where the two are one factor (Llama 4 Scout), every wave is shorter or longer than that one.
        const smooth = high === low ? 0 : (original / wave - low) / (high - low);
        return f32(((1 - smooth) * x) / factor + smooth * x);
      });
      return { spec: { inverseFrequencies: inverse, factor: 1, interleaved }, scoreFactor: 1 };
    }
    case "longrope":
      return { spec: { ...longrope(reader, p, dim, theta, options.mscales ?? false), interleaved }, scoreFactor: 1 };
    default:
      return yarn(reader, p, dim, theta, base, interleaved);
  }
}

function alphaFactor(p: ConfigReader, dim: number): number {
  const alpha = p.numberOrNull("alpha", ranges.alpha) ?? 1;
  if (alpha !== 1 && dim <= 2) p.fail("alpha", `1 (or none) where heads have ${dim} dimensions`);
  return alpha === 1 ? 1 : alpha ** (dim / (dim - 2));
}

/** θ^(−2i/d) of the first share of the pairs of a head of d dimensions, 0 of the others: all of it is rotated, by no angle. */
function proportional(p: ConfigReader, d: number, theta: number, share: number): Rotation {
  const factor = p.number("factor", ranges.stretch, 1);
  const angles = Math.floor((share * d) / 2);
  const inverse = Array.from({ length: d / 2 }, (_, i) => (i < angles ? f32(f32(1 / f32(f32(theta) ** f32((2 * i) / d))) / factor) : 0));
  return { inverseFrequencies: inverse, factor: 1 };
}

type Rotation = Pick<RopeSpec, "inverseFrequencies" | "factor">;

/** Frequencies divided by short factors, and by long ones in documents of more than original_max_position_embeddings tokens. */
function longrope(reader: ConfigReader, p: ConfigReader, dim: number, theta: number, mscales: boolean): Omit<RopeSpec, "interleaved"> {
  const key = "original_max_position_embeddings";
  const positions = reader.int("max_position_embeddings", undefined, ranges.positions);
  const length = ((reader.config[key] ?? null) === null ? p : reader).int(key, positions, ranges.positions);
  const factor = p.number("factor", ranges.factor, positions / length);
  const attention = factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(length));
  const part = (which: "short" | "long"): Rotation => ({
    inverseFrequencies: p
      .numberList(`${which}_factor`, dim / 2, ranges.factor)
      .map((stretch, i) => f32(1 / f32(f32(stretch) * f32(f32(theta) ** f32((2 * i) / dim))))),
    factor: mscales ? p.number(`${which}_mscale`, ranges.factor) : p.number("attention_factor", ranges.factor, attention),
  });
  const [short, long] = [part("short"), part("long")];
  return { ...short, beyond: { length, ...long, ...(mscales ? { inverseFrequencies: short.inverseFrequencies } : {}) } };
}

function yarn(reader: ConfigReader, p: ConfigReader, dim: number, theta: number, base: number[], interleaved: boolean): RopeConfig {
  const positions = reader.int("max_position_embeddings", undefined, ranges.positions);
  const original = p.int("original_max_position_embeddings", positions, ranges.positions);
  const factor = p.number("factor", ranges.stretch, positions / original);
  const mscale = p.numberOrNull("mscale", ranges.mscale);
  const mscaleAll = p.numberOrNull("mscale_all_dim", ranges.mscale);
  const attentionFactor =
    p.numberOrNull("attention_factor", ranges.factor) ??
    (mscale && mscaleAll ? yarnMscale(factor, mscale) / yarnMscale(factor, mscaleAll) : yarnMscale(factor));
  const correction = (rotations: number): number => (dim * Math.log(original / (rotations * 2 * Math.PI))) / (2 * Math.log(theta));
  const [fast, slow] = [p.number("beta_fast", ranges.factor, 32), p.number("beta_slow", ranges.factor, 1)];
  if (fast <= slow) p.fail("beta_fast", `above beta_slow ${slow}`);
  let low = correction(fast);
  let high = correction(slow);
  if (p.bool("truncate", true)) {
    low = Math.floor(low);
    high = Math.ceil(high);
  }
  low = Math.max(low, 0);
  high = Math.min(high, dim - 1);
  if (low === high) high += 0.001;
  const inverse = base.map((x, i) => {
    const extrapolation = 1 - Math.min(1, Math.max(0, f32((i - low) / (high - low))));
    return f32(f32(f32(x / factor) * f32(1 - extrapolation)) + f32(x * f32(extrapolation)));
  });
  return {
    spec: { inverseFrequencies: inverse, factor: attentionFactor, interleaved },
    scoreFactor: mscaleAll ? yarnMscale(factor, mscaleAll) ** 2 : 1,
  };
}
