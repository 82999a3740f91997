// A report as one HTML file that asks for nothing from elsewhere: charts as SVG, every chart's values as a table beside it and as JSON in
// the page. A policy in its head lets nothing else run or load, whatever a name in the data says.

import { createHash } from "node:crypto";
import { DASHES, MOST_SERIES, SHADES } from "./charts/chart.ts";
import type { Chart } from "./charts/chart.ts";
import { isNumeric, shown } from "./content.ts";
import type { Column, Fact, Figure, Report, Row, Table } from "./content.ts";
import { drawChart } from "./draw.ts";
import { escaped, Markup, markup, scriptJson } from "./html.ts";
import type { Content } from "./html.ts";
import { script } from "./page_script.ts";
import { style } from "./page_style.ts";

/** Tables of at most so many rows are open. */
const OPEN_ROWS = 8;

/** An attribute of a tag, or nothing. */
const when = (is: boolean, attribute: string): Markup => new Markup(is ? ` ${attribute}` : "");

const hash = (text: string): string => `'sha256-${createHash("sha256").update(text).digest("base64")}'`;

/** What may run and load; `live` pages ask their server. */
export function policyOf(scripts: readonly string[], live: boolean): string {
  const connect = live ? " connect-src 'self';" : "";
  return `default-src 'none'; script-src ${scripts.map(hash).join(" ")}; style-src ${hash(style)};${connect} img-src data:; base-uri 'none'; form-action 'none'`;
}

/** Of a page that is served: what keeps it up to date, and what it was made of. */
export interface Live {
  readonly script: string;
  readonly version: string;
}

/** The whole page. */
export async function pageOf(report: Report): Promise<string> {
  return pageAround(report.title, await contentOf(report));
}

/** The page around its content. */
export function pageAround(title: string, content: Markup, live?: Live): string {
  const scripts = live === undefined ? [script] : [script, live.script];
  const page = markup`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${policyOf(scripts, live !== undefined)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="esft report">
<title>${title}</title>
<link rel="icon" href="data:,">
<style>${new Markup(style)}</style>
</head>
<body>
<div class="page">
<div class="themes" role="group" aria-label="Colours" hidden>
<button type="button" value="auto" aria-pressed="true">Auto</button>
<button type="button" value="light" aria-pressed="false">Light</button>
<button type="button" value="dark" aria-pressed="false">Dark</button>
</div>
${live === undefined ? "" : markup`<p id="live" role="status"></p>\n`}<div id="content"${live === undefined ? "" : markup` data-version="${live.version}"`}>
${content}</div>
</div>
${scripts.map((s) => markup`<script>${new Markup(s)}</script>\n`)}</body>
</html>
`;
  return page.text;
}

/** What is inside of #content: all that changes while a run goes on. */
export async function contentOf(report: Report): Promise<Markup> {
  const { title, about, facts, remarks } = report;
  const sections: Markup[] = [];
  for (const section of report.sections) {
    const figures: Markup[] = [];
    for (const figure of section.figures) figures.push(await figureMarkup(figure));
    sections.push(markup`<section>\n<h2>${section.title}</h2>\n<div class="figures">\n${figures}</div>\n</section>\n`);
  }
  const data = report.sections.flatMap((s) => s.figures).map((f) => ({ id: f.id, title: f.title, ...f.table }));
  return markup`<header>
<h1>${title}</h1>
<p class="about">${about}</p>
</header>
<main>
${facts.length === 0 ? "" : markup`<dl class="facts">\n${facts.map(factMarkup)}</dl>\n`}${
    remarks.length === 0 ? "" : markup`<ul class="remarks">\n${remarks.map((r) => markup`<li>${r}</li>\n`)}</ul>\n`
  }${sections}</main>
<script type="application/json" id="data">${scriptJson({ title, about, facts, remarks, figures: data })}</script>
`;
}

function factMarkup({ label, value, note }: Fact): Markup {
  return markup`<div><dt>${label}</dt><dd>${value}${note === undefined ? "" : markup`<small>${note}</small>`}</dd></div>\n`;
}

async function figureMarkup(figure: Figure): Promise<Markup> {
  const { id, title, about, chart, half, note } = figure;
  return markup`<figure id="${id}"${when(half === true, 'class="half"')}>
<figcaption>
<h3>${title}</h3>
<p class="about">${about}</p>
</figcaption>
<div>
${chart === null ? "" : await chartMarkup(chart, title, about)}${note === undefined ? "" : markup`<p class="note">${note}</p>\n`}${tableMarkup(figure)}</div>
</figure>
`;
}

async function chartMarkup(chart: Chart, title: string, about: string): Promise<Markup> {
  const named = `<svg role="img" aria-label="${escaped(`${title}. ${about} The table below has the values.`)}"`;
  const svg = (await drawChart(chart)).replace("<svg", () => named);
  const kind = chart.marks === "shades" ? "chart" : "chart wide";
  return markup`<div class="${kind}" tabindex="0" role="group" aria-label="Chart: ${title}">${new Markup(svg)}</div>\n${legendMarkup(chart)}`;
}

function legendMarkup({ legend, marks, shades }: Chart): Content {
  if (shades) {
    const [scale, frame] = [shades.slice(0, SHADES), shades[SHADES]];
    return [
      markup`<ul class="legend shades" aria-hidden="true">${scale.map((s, i) => markup`<li><i class="shade-${i}"></i>${s}</li>`)}</ul>\n`,
      frame === undefined ? "" : markup`<ul class="legend" aria-hidden="true"><li><span class="frame"></span>${frame}</li></ul>\n`,
    ];
  }
  if (legend.length === 0 || marks === "points") return "";
  return markup`<ul class="legend">${legend.map((name, i) => markup`<li>${swatch(i)}${name}</li>`)}</ul>\n`;
}

/** A short piece of a series' line. */
function swatch(i: number): Markup {
  const [colour, dash] = [(i % MOST_SERIES) + 1, DASHES[i % DASHES.length]!.join(" ")];
  return markup`<svg width="26" height="10" aria-hidden="true"><line x1="1" x2="25" y1="5" y2="5" stroke="var(--series-${colour})" stroke-width="2.5" stroke-dasharray="${dash}"/></svg>`;
}

/** A table beside a chart can be folded; one of its own is what the figure is. */
function tableMarkup({ title, chart, table }: Figure): Content {
  const { length } = table.rows;
  if (length === 0) return "";
  const whole = markup`<div class="table" tabindex="0" role="region" aria-label="Table: ${title}">\n${plainTable(title, table)}</div>\n`;
  if (chart === null) return whole;
  const summary = `Table, ${length} row${length === 1 ? "" : "s"}`;
  return markup`<details${when(length <= OPEN_ROWS, "open")}>\n<summary>${summary}</summary>\n${whole}</details>\n`;
}

function plainTable(title: string, { columns, rows }: Table): Markup {
  const aligned = (column: Column): Markup => when(isNumeric(column), 'class="number"');
  const cell = (row: Row, column: Column, i: number): Markup => {
    const text = shown(row[column.key] ?? null, column);
    return i === 0 ? markup`<th scope="row"${aligned(column)}>${text}</th>` : markup`<td${aligned(column)}>${text}</td>`;
  };
  return markup`<table><caption>${title}</caption>
<thead><tr>${columns.map((c) => markup`<th scope="col"${aligned(c)}>${c.label}</th>`)}</tr></thead>
<tbody>
${rows.map((row) => markup`<tr>${columns.map((c, i) => cell(row, c, i))}</tr>\n`)}</tbody></table>
`;
}
