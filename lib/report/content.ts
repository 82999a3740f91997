// What a report says, before it is a page: sections of figures, each a table of values with, mostly, a chart of the same values.

import type { Cell, Chart } from "./charts/chart.ts";

/** A column of a table: texts, or numbers shown with `digits` decimals or with so many `significant` digits. */
export interface Column {
  readonly key: string;
  readonly label: string;
  readonly digits?: number;
  readonly significant?: number;
}
/** A column and, in `sd`, the one of its standard deviations. */
export const withSd = (column: Column, sd: string): Column[] => [column, { ...column, key: sd, label: "± sd" }];

export type Row = Readonly<Record<string, Cell>>;

export interface Table {
  readonly columns: readonly Column[];
  readonly rows: readonly Row[];
}

export interface Figure {
  /** A word of the page, such as "loss". */
  readonly id: string;
  readonly title: string;
  /** What is shown and how it is read: a sentence or two. */
  readonly about: string;
  readonly chart: Chart | null;
  readonly table: Table;
  /** Half of the page's width; default: all of it. */
  readonly half?: boolean;
  /** What is not shown, and why. */
  readonly note?: string;
}

export interface Section {
  readonly title: string;
  readonly figures: readonly Figure[];
}

/** A figure that stands for the whole: its name, its value, what it is beside. */
export interface Fact {
  readonly label: string;
  readonly value: string;
  readonly note?: string;
}

export interface Report {
  readonly title: string;
  /** One line below the title. */
  readonly about: string;
  readonly facts: readonly Fact[];
  /** Warnings about what was read. */
  readonly remarks: readonly string[];
  readonly sections: readonly Section[];
}

/** Between groups of digits. */
const THIN = "\u202f";

/** A cell as the page shows it. */
export function shown(cell: Cell, { digits, significant }: Column): string {
  if (cell === null) return "–";
  if (typeof cell === "string") return cell;
  const text = digits !== undefined ? cell.toFixed(digits) : significant !== undefined ? precise(cell, significant) : String(cell);
  const [whole = "", rest] = text.replace(/-/g, "−").split(".");
  const grouped = /^−?\d{5,}$/.test(whole) ? whole.replace(/\B(?=(\d{3})+$)/g, THIN) : whole;
  return rest === undefined ? grouped : `${grouped}.${rest}`;
}

/** 0.00002 → 2e-5 */
function precise(x: number, significant: number): string {
  if (x === 0 || Math.abs(x) >= 1e-3) return String(Number(x.toPrecision(significant)));
  return x.toExponential(significant - 1).replace(/\.?0*e/, "e");
}

export const isNumeric = (column: Column): boolean => column.digits !== undefined || column.significant !== undefined;
