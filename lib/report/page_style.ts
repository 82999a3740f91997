// How reports look: type, spacing and colours, light, dark and on paper. Charts take their colours from the variables here. The colours
// of series are those of Okabe and Ito (told apart with every kind of colour vision), darkened for light and lightened for dark ground.

import { SHADES } from "./charts/chart.ts";

const light = {
  back: "#ffffff",
  raised: "#f7f7f5",
  fore: "#1d1d1f",
  soft: "#62626a",
  line: "#d9d9d6",
  grid: "#ebebe8",
  link: "#0b5cad",
  mark: "#d0480a",
  "on-dark-shade": "#ffffff",
  "on-light-shade": "#1d1d1f",
  "series-1": "#0a6ab3",
  "series-2": "#c9500a",
  "series-3": "#0a8562",
  "series-4": "#a8457f",
  "series-5": "#9a6a00",
  "series-6": "#4a4a52",
};
const dark: typeof light = {
  back: "#151517",
  raised: "#1d1d20",
  fore: "#ececee",
  soft: "#a3a3ab",
  line: "#3a3a40",
  grid: "#26262a",
  link: "#8cc4ff",
  mark: "#ff9a52",
  "on-dark-shade": "#10131a",
  "on-light-shade": "#ececee",
  "series-1": "#62b5f0",
  "series-2": "#ff8f4d",
  "series-3": "#3ecfa3",
  "series-4": "#e595c2",
  "series-5": "#ecb84a",
  "series-6": "#c9c9d1",
};
/** From the ground to the strongest. */
const lightShades = ["#f0f3f7", "#dde8f3", "#c4daec", "#a3c7e3", "#7bb0d8", "#5194c8", "#2f77b4", "#165a97", "#083c70"];
const darkShades = ["#1f2228", "#202c3b", "#213950", "#234a6b", "#285f8a", "#3378ab", "#4a94ca", "#70b3e4", "#a5d5fa"];
if (lightShades.length !== SHADES || darkShades.length !== SHADES) throw new Error("page_style.ts: a colour for every shade");

function variables(colours: Readonly<Record<string, string>>, shades: readonly string[]): string {
  const all = [...Object.entries(colours), ...shades.map((c, i): [string, string] => [`shade-${i}`, c])];
  return all.map(([name, value]) => `--${name}: ${value};`).join(" ");
}
const [lightly, darkly] = [variables(light, lightShades), variables(dark, darkShades)];

export const style = `
:root { color-scheme: light; ${lightly} }
@media (prefers-color-scheme: dark) { :root:not([data-theme="light"]) { color-scheme: dark; ${darkly} } }
:root[data-theme="dark"] { color-scheme: dark; ${darkly} }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--fore); font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", Arial, sans-serif; }
.page { max-width: 1024px; margin: 0 auto; padding: 40px 32px 72px; }
h1 { margin: 0; font-size: 28px; line-height: 1.2; font-weight: 650; letter-spacing: -.015em; overflow-wrap: anywhere; }
h2 { margin: 56px 0 0; padding-bottom: 8px; font-size: 19px; line-height: 1.3; font-weight: 620; letter-spacing: -.01em; border-bottom: 1px solid var(--line); }
h3 { margin: 0; font-size: 15px; line-height: 1.4; font-weight: 620; }
p { margin: 0; }
.about { max-width: 92ch; text-wrap: pretty; color: var(--soft); overflow-wrap: anywhere; }
header .about { margin-top: 6px; }
.themes { float: right; margin: 4px 0 10px 24px; display: flex; border: 1px solid var(--line); border-radius: 7px; overflow: hidden; }
.themes[hidden] { display: none; }
.themes button { font: inherit; font-size: 13px; color: var(--soft); background: none; border: 0; padding: 4px 11px; cursor: pointer; }
.themes button + button { border-left: 1px solid var(--line); }
.themes button[aria-pressed="true"] { color: var(--fore); background: var(--raised); font-weight: 560; }
:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
.themes button:focus-visible { outline-offset: -2px; }
#live { float: right; clear: right; margin: 0 0 12px 24px; font-size: 13px; color: var(--soft); }
#live::before { content: ""; display: inline-block; width: 8px; height: 8px; margin-right: 7px; border-radius: 50%; background: var(--series-3); }
#live.lost { color: var(--mark); }
#live.lost::before { background: var(--mark); }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 24px 28px; margin: 32px 0 0; padding: 0; }
.facts div { min-width: 0; }
.facts dt { color: var(--soft); font-size: 13px; }
.facts dd { margin: 1px 0 0; font-size: 22px; line-height: 1.25; font-weight: 600; letter-spacing: -.01em; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.facts dd small { display: block; margin-top: 2px; font-size: 13px; font-weight: 400; letter-spacing: 0; color: var(--soft); }
.remarks { margin: 28px 0 0; padding: 10px 16px 10px 34px; background: var(--raised); border-left: 3px solid var(--mark); border-radius: 3px; overflow-wrap: anywhere; }
.figures { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 36px 28px; margin-top: 24px; }
figure { grid-column: 1 / -1; margin: 0; min-width: 0; break-inside: avoid; }
/* Charts side by side begin at one height, however long their captions are. */
figure.half { grid-column: auto; grid-row: span 2; display: grid; grid-template-rows: subgrid; grid-template-columns: minmax(0, 1fr); row-gap: 0; }
figcaption .about { margin-top: 2px; font-size: 14px; }
.chart { margin-top: 4px; overflow-x: auto; }
.chart svg { display: block; }
/* Cells of a heat map keep their size, and what is wider than the page is scrolled. */
.chart.wide svg { width: 100%; height: auto; }
.chart text { font-variant-numeric: tabular-nums; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 20px; margin: 10px 0 0; padding: 0; list-style: none; font-size: 13px; color: var(--soft); }
.legend li { display: flex; gap: 7px; align-items: center; overflow-wrap: anywhere; }
.legend svg { flex: none; }
.legend.shades { gap: 4px 0; }
.legend.shades li { flex-direction: column; gap: 3px; align-items: stretch; font-size: 12px; text-align: center; font-variant-numeric: tabular-nums; }
.legend.shades i { display: block; width: 62px; height: 10px; }
${Array.from({ length: SHADES }, (_, i) => `.shade-${i} { background: var(--shade-${i}); }`).join("\n")}
.legend .frame { width: 12px; height: 12px; border: 2px solid var(--mark); border-radius: 2px; }
.note { margin-top: 8px; font-size: 13px; color: var(--soft); max-width: 68ch; }
details { margin-top: 10px; }
summary { width: max-content; max-width: 100%; color: var(--link); font-size: 13px; cursor: pointer; border-radius: 3px; }
.table { margin-top: 8px; max-height: 720px; overflow: auto; border-top: 1px solid var(--line); border-bottom: 1px solid var(--line); }
details .table { max-height: 420px; }
table { border-collapse: collapse; width: max-content; font-size: 13px; line-height: 1.4; font-variant-numeric: tabular-nums; }
caption { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
th, td { padding: 5px 22px 5px 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--grid); }
tbody th, td { max-width: 68ch; overflow-wrap: break-word; white-space: pre-wrap; }
tr:last-child > * { border-bottom: 0; }
thead th { position: sticky; top: 0; background: var(--back); color: var(--soft); font-weight: 500; vertical-align: bottom; box-shadow: inset 0 -1px var(--line); white-space: nowrap; }
tbody th { font-weight: 500; }
.number { text-align: right; white-space: nowrap; }
@media (max-width: 760px) {
  .page { padding: 24px 16px 48px; }
  figure.half { grid-column: 1 / -1; }
  figure.half { display: block; }
  .chart.wide svg { min-width: 620px; }
}
@media print {
  :root, :root[data-theme] { color-scheme: light; ${lightly} }
  body { font-size: 10.5pt; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .page { max-width: none; padding: 0; }
  .themes, #live, details:not([open]) { display: none; }
  .chart svg { max-width: 100%; height: auto; }
  .table { max-height: none; overflow: visible; }
  h2 { break-after: avoid; margin-top: 28pt; }
}
`;
