// What the charts of reports have in common, as parts of specifications of vega-lite. Colours are CSS variables (page_style.ts). Series
// differ by dash or shape too, so that no colour must be told from another. Names of series are values of data and domains of scales,
// never names of fields or parts of expressions: vega-lite writes what it filters or sorts by into code.

/** A value of a table and of a chart. */
export type Cell = string | number | null;

export interface Chart {
  readonly spec: object;
  /** Names of the series in the order of their colours; none where there is one thing to see. */
  readonly legend: readonly string[];
  readonly marks: "lines" | "points" | "bars" | "shades";
  /** Legend of shades: what each of them stands for, then what a frame does. */
  readonly shades?: readonly string[];
}

export type Values = readonly Readonly<Record<string, Cell>>[];

export const WIDE = 960;
export const HALF = 466;
/** Series that colours are there for; more would not be told apart. */
export const MOST_SERIES = 6;
/** Steps of the shading of heat maps. */
export const SHADES = 9;

export const DASHES: readonly (readonly number[])[] = [[], [6, 3], [2, 3], [9, 3, 2, 3], [12, 4], [4, 2]];

export const colour = (i: number): string => `var(--series-${i + 1})`;

export const config = {
  background: null,
  view: { stroke: null },
  axis: {
    labelColor: "var(--soft)",
    labelFontSize: 12,
    labelPadding: 6,
    titleColor: "var(--soft)",
    titleFontSize: 12,
    titleFontWeight: 400,
    titlePadding: 10,
    gridColor: "var(--grid)",
    domainColor: "var(--line)",
    tickColor: "var(--line)",
    tickSize: 4,
  },
  axisX: { grid: false, labelFlush: false },
  // The unit of y stands above the axis, where it is read without turning the head.
  axisY: { domain: false, ticks: false, titleAngle: 0, titleAlign: "left", titleAnchor: "end", titleY: -14, titleX: 0, tickCount: 5 },
  line: { strokeWidth: 2, strokeCap: "round", strokeJoin: "round" },
  text: { fontSize: 12, color: "var(--fore)" },
};

export function whole(spec: object, width: number, height: number): object {
  return {
    width,
    height,
    autosize: { type: "fit", contains: "padding" },
    padding: { left: 4, right: 10, top: 20, bottom: 4 },
    config,
    ...spec,
  };
}

export interface Axis {
  readonly key: string;
  readonly title: string;
  readonly log?: boolean;
  readonly zero?: boolean;
  readonly labels?: keyof typeof LABELS;
}

/** How the values of an axis are written; d3's own axes write 0 as "0k" and 2e-5 as 0.00002. */
const LABELS = {
  share: "format(datum.value, '~%')",
  whole: "format(datum.value, 'd')",
  large: "datum.value === 0 ? '0' : format(datum.value, '~s')",
  small: "datum.value === 0 ? '0' : replace(format(datum.value, '~e'), '-', '−')",
  plain: "format(datum.value, '~g')",
} as const;
export const labelled = (labels: Axis["labels"]): object => (labels === undefined ? {} : { labelExpr: LABELS[labels] });

export const scaled = ({ key, title, log, zero, labels }: Axis): object => ({
  field: key,
  type: "quantitative",
  scale: log ? { type: "log", nice: false } : { zero: zero ?? false, nice: true },
  axis: { title, ...labelled(labels), ...(log ? { tickCount: 4 } : {}) },
});

/** A layer, where some value has what it draws: the extent of nothing is an error. */
export function layerWhere(values: Values, has: (value: Values[number]) => boolean, layer: object): object[] {
  return values.some(has) ? [layer] : [];
}
