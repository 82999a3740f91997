// Lines: values over steps, rates, ranks, one line a series.

import { colour, DASHES, HALF, labelled, layerWhere, MOST_SERIES, scaled, WIDE, whole } from "./chart.ts";
import type { Axis, Chart, Values } from "./chart.ts";

/** Lines of more values are drawn thinner. */
const MANY = 200;

/** Colour and dash of a series by its name. */
function seriesOf(field: string, names: readonly string[]): { readonly color: object; readonly strokeDash: object } {
  const of = (range: readonly unknown[]): object => ({ field, type: "nominal", legend: null, scale: { domain: [...names], range } });
  return { color: of(names.map((_, i) => colour(i % MOST_SERIES))), strokeDash: of(names.map((_, i) => DASHES[i % DASHES.length])) };
}

/** A line a series; with `dots` a mark at every value, for series of few. Values that are null leave a gap. */
export function lines(
  values: Values,
  options: {
    readonly x: Axis;
    readonly y: Axis;
    readonly series?: string;
    readonly names?: readonly string[];
    readonly dots?: readonly string[];
    readonly half?: boolean;
    readonly rule?: number;
    /** Field of values that get a ring where it is 1. */
    readonly ring?: string;
  },
): Chart {
  const { x, y, series = "series", names = [""], dots = [], half = false, rule, ring } = options;
  const xs = new Set(values.map((v) => v[x.key]));
  const marked = xs.size === 1 ? names : dots;
  const isThere = (v: Values[number]): boolean => v[y.key] !== null;
  const data = values.map((v): Values[number] => {
    const name = v[series] ?? "";
    return { ...v, [series]: name, dot: marked.includes(String(name)) ? 1 : 0 };
  });
  const encoding = {
    x: {
      ...scaled(x),
      axis: x.log
        ? { title: x.title, values: [...xs], ...labelled(x.labels) }
        : { title: x.title, tickMinStep: 1, tickCount: half ? 6 : 12, ...(xs.size === 1 ? { values: [...xs] } : {}) },
      scale: x.log ? { type: "log", nice: false, padding: 16 } : { nice: false, zero: false },
    },
    y: scaled(y),
    ...seriesOf(series, names),
  };
  const layer = [
    ...(rule === undefined
      ? []
      : [
          {
            data: { values: [{ rule }] },
            mark: { type: "rule", color: "var(--soft)", strokeDash: [3, 3] },
            encoding: { y: { field: "rule", type: "quantitative" } },
          },
        ]),
    { mark: { type: "line", strokeWidth: values.length > MANY ? 1.4 : 2 }, encoding },
    ...layerWhere(data, (v) => v["dot"] === 1 && isThere(v), {
      transform: [{ filter: { field: "dot", equal: 1 } }],
      mark: { type: "point", filled: true, size: 42, opacity: 1, stroke: "var(--back)", strokeWidth: 1.5 },
      encoding: { x: encoding.x, y: encoding.y, color: encoding.color },
    }),
    ...layerWhere(data, (v) => ring !== undefined && v[ring] === 1 && isThere(v), {
      transform: [{ filter: { field: ring, equal: 1 } }],
      mark: { type: "point", filled: false, size: 170, opacity: 1, strokeWidth: 2 },
      encoding: { x: encoding.x, y: encoding.y, color: encoding.color },
    }),
  ];
  const spec = whole({ data: { values: data }, layer }, half ? HALF : WIDE, half ? 230 : 300);
  return { spec, legend: names.length > 1 ? names : [], marks: "lines" };
}
