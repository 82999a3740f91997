// One mark a name: bars of amounts, intervals beside 0, points of two values.

import { colour, HALF, labelled, layerWhere, MOST_SERIES, scaled, WIDE, whole } from "./chart.ts";
import type { Axis, Chart, Values } from "./chart.ts";

const SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down"] as const;

/** Horizontal bars, one per name, with the value in words at the end of each; `low` and `high`, where there, as a line through the end. */
export function bars(
  values: Values,
  options: {
    readonly name: string;
    readonly names: readonly string[];
    readonly x: Axis;
    readonly text: string;
    readonly low: string;
    readonly high: string;
  },
): Chart {
  const { name, names, x, text, low, high } = options;
  const y = {
    field: name,
    type: "nominal",
    sort: null,
    axis: { title: null, labelLimit: 150, labelColor: "var(--fore)", grid: false },
    scale: { paddingInner: 0.4, paddingOuter: 0.2 },
  };
  const most = Math.max(0, ...values.map((v) => Number(v[high] ?? v[x.key] ?? 0)));
  const along = {
    field: x.key,
    type: "quantitative",
    scale: { domain: [0, most > 0 ? most * 1.3 : 1], nice: false },
    axis: { title: x.title, tickCount: 4, grid: true, domain: false, ...labelled(x.labels) },
  };
  const layer = [
    { mark: { type: "bar", color: colour(0) }, encoding: { y, x: along } },
    ...layerWhere(values, has(low), {
      transform: [{ filter: { field: low, valid: true } }],
      mark: { type: "rule", color: "var(--fore)", strokeWidth: 1.5 },
      encoding: { y, x: { ...along, field: low }, x2: { field: high } },
    }),
    {
      transform: [{ calculate: `max(datum[${JSON.stringify(x.key)}], datum[${JSON.stringify(high)}])`, as: "end" }],
      mark: { type: "text", align: "left", baseline: "middle", dx: 6 },
      encoding: { y, x: { ...along, field: "end" }, text: { field: text, type: "nominal" } },
    },
  ];
  return { spec: whole({ data: { values }, layer }, HALF, 60 + 30 * names.length), legend: [], marks: "bars" };
}

/** Intervals around means, one per name, beside a line at 0. */
export function intervals(
  values: Values,
  options: { readonly name: string; readonly names: readonly string[]; readonly x: Axis; readonly low: string; readonly high: string },
): Chart {
  const { name, names, x, low, high } = options;
  const y = {
    field: name,
    type: "nominal",
    sort: null,
    axis: { title: null, labelLimit: 260, labelColor: "var(--fore)", grid: true, gridDash: [2, 3] },
  };
  const along = {
    ...scaled({ ...x, zero: true }),
    axis: { title: x.title, tickCount: 8, grid: true, domain: false, ...labelled(x.labels) },
  };
  const layer = [
    zeroAlong("x"),
    ...layerWhere(values, has(low), {
      transform: [{ filter: { field: low, valid: true } }],
      mark: { type: "rule", color: colour(0), strokeWidth: 2.5 },
      encoding: { y, x: { ...along, field: low }, x2: { field: high } },
    }),
    {
      mark: { type: "point", filled: true, size: 90, opacity: 1, color: colour(0), stroke: "var(--back)", strokeWidth: 1.5 },
      encoding: { y, x: along },
    },
  ];
  return { spec: whole({ data: { values }, layer }, WIDE, 64 + 26 * names.length), legend: [], marks: "points" };
}

const has =
  (field: string) =>
  (value: Values[number]): boolean =>
    value[field] !== null;

const zeroAlong = (channel: "x" | "y"): object => ({
  data: { values: [{ zero: 0 }] },
  mark: { type: "rule", color: "var(--soft)", strokeDash: [3, 3] },
  encoding: { [channel]: { field: "zero", type: "quantitative" } },
});

/** A point per name with its deviations as a cross; points with `front` are joined by a line, in the order of x. */
export function points(
  values: Values,
  options: {
    readonly x: Axis;
    readonly y: Axis;
    readonly name: string;
    readonly names: readonly string[];
    readonly front: string;
    /** Fields of both ends of the cross. */
    readonly spread: { readonly x: readonly [string, string]; readonly y: readonly [string, string] };
  },
): Chart {
  const { x, y, name, names, front, spread } = options;
  const domain = [...names];
  const of = (range: readonly string[]): object => ({ field: name, type: "nominal", legend: null, scale: { domain, range } });
  const color = of(names.map((_, i) => colour(i % MOST_SERIES)));
  const shape = of(names.map((_, i) => SHAPES[i % SHAPES.length]!));
  const ex = { ...scaled(x), axis: { title: x.title, tickCount: 8, grid: true, domain: false, ...labelled(x.labels) } };
  const ey = scaled(y);
  const [left, right] = spread.x;
  const [low, high] = spread.y;
  const rule = { type: "rule", strokeWidth: 1.5, opacity: 0.75 };
  const layer = [
    zeroAlong("x"),
    zeroAlong("y"),
    {
      transform: [{ filter: { field: front, equal: 1 } }],
      mark: { type: "line", color: "var(--soft)", strokeWidth: 1, strokeDash: [2, 3], interpolate: "step-after" },
      encoding: { x: ex, y: ey },
    },
    ...layerWhere(values, has(left), {
      transform: [{ filter: { field: left, valid: true } }],
      mark: rule,
      encoding: { x: { ...ex, field: left }, x2: { field: right }, y: ey, color },
    }),
    ...layerWhere(values, has(low), {
      transform: [{ filter: { field: low, valid: true } }],
      mark: rule,
      encoding: { x: ex, y: { ...ey, field: low }, y2: { field: high }, color },
    }),
    {
      mark: { type: "point", filled: true, size: 120, opacity: 1, stroke: "var(--back)", strokeWidth: 1.5 },
      encoding: { x: ex, y: ey, color, shape },
    },
    {
      mark: { type: "text", align: "left", baseline: "bottom", dx: 8, dy: -6 },
      encoding: { x: ex, y: ey, text: { field: name, type: "nominal" } },
    },
  ];
  return { spec: whole({ data: { values }, layer }, WIDE, 400), legend: [], marks: "points" };
}
