// Values as shades: heat maps of many cells, and squares of a few with the value written into each.

import { config, layerWhere, SHADES } from "./chart.ts";
import type { Axis, Cell, Chart, Values } from "./chart.ts";

/** Which shade a value has: the number of bounds that it reaches. @param domain SHADES − 1, ascending */
const shaded = (field: string, domain: readonly number[]): object => {
  const range = Array.from({ length: SHADES }, (_, i) => `var(--shade-${i})`);
  return { field, type: "quantitative", legend: null, scale: { type: "threshold", domain: [...domain], range } };
};

/**
 * A cell per (x, y), shaded by which of the bounds its value reaches; cells with `marked` have a frame.
 * @param bounds SHADES − 1, ascending
 */
export function heatMap(
  values: readonly (Readonly<Record<string, Cell>> & { readonly marked: number })[],
  options: {
    readonly x: Axis;
    readonly y: Axis;
    readonly value: string;
    readonly bounds: readonly number[];
    readonly shades: readonly string[];
  },
): Chart {
  const { x, y, value, bounds } = options;
  const [columns, rows] = [new Set(values.map((v) => v[x.key])), new Set(values.map((v) => v[y.key]))];
  const every = (n: number, most: number): unknown[] => {
    const step = [1, 2, 4, 8, 16, 32, 64, 128].find((s) => n / s <= most) ?? 256;
    return Array.from({ length: Math.ceil(n / step) }, (_, i) => i * step);
  };
  const size = Math.max(9, Math.min(24, Math.floor(910 / columns.size)));
  const gap = size > 10 ? 1.5 : 1;
  const cornerRadius = size > 11 ? 1.5 : 0; // of many small cells nobody sees them, and each takes a hundred bytes
  const encoding = {
    x: {
      field: x.key,
      type: "ordinal",
      scale: { paddingInner: gap / size, paddingOuter: 0 },
      axis: { title: x.title, values: every(columns.size, 16), labelAngle: 0, domain: false, ticks: false },
    },
    y: {
      field: y.key,
      type: "ordinal",
      scale: { paddingInner: gap / size, paddingOuter: 0 },
      axis: { title: y.title, labelPadding: 8, grid: false, ...(rows.size > 24 ? { labelOverlap: true } : {}) },
    },
  };
  const spec = {
    width: { step: size },
    height: { step: Math.max(size, 12) },
    padding: { left: 4, right: 10, top: 20, bottom: 4 },
    config: { ...config, axis: { ...config.axis, grid: false } },
    data: { values },
    layer: [
      {
        mark: { type: "rect", cornerRadius },
        encoding: {
          ...encoding,
          fill: shaded(value, bounds),
        },
      },
      ...layerWhere(values, (v) => v["marked"] === 1, {
        transform: [{ filter: { field: "marked", equal: 1 } }],
        mark: { type: "rect", cornerRadius, fill: null, stroke: "var(--mark)", strokeWidth: 1.6 },
        encoding,
      }),
    ],
  };
  return { spec, legend: [], marks: "shades", shades: options.shades };
}

/** A square of names × names with the value written into every cell. */
export function matrix(
  values: Values,
  options: { readonly names: readonly string[]; readonly value: string; readonly most: number; readonly digits: number },
): Chart {
  const { names, value, most, digits } = options;
  const axis = { title: null, domain: false, ticks: false, labelLimit: 180, labelColor: "var(--fore)" };
  const encoding = {
    x: {
      field: "x",
      type: "ordinal",
      sort: null,
      axis: { ...axis, orient: "top", labelAngle: names.length > 3 ? -35 : 0, grid: false },
    },
    y: { field: "y", type: "ordinal", sort: null, axis: { ...axis, grid: false } },
  };
  const cell = names.length > 8 ? 44 : 64;
  const half = (most * 5) / SHADES;
  const spec = {
    width: { step: Math.max(cell, 72) },
    height: { step: cell },
    padding: 6,
    config,
    data: { values },
    layer: [
      {
        mark: { type: "rect", cornerRadius: 3, stroke: "var(--back)", strokeWidth: 2 },
        encoding: {
          ...encoding,
          fill: shaded(
            value,
            Array.from({ length: SHADES - 1 }, (_, i) => (most * (i + 1)) / SHADES),
          ),
        },
      },
      {
        mark: { type: "text", fontSize: 13 },
        encoding: {
          ...encoding,
          text: { field: value, type: "quantitative", format: `.${digits}f` },
          color: { condition: { test: { field: value, gte: half }, value: "var(--on-dark-shade)" }, value: "var(--on-light-shade)" },
        },
      },
    ],
  };
  return { spec, legend: [], marks: "shades" };
}
