// A chart as SVG, by vega-lite and vega, which are loaded when the first chart is drawn. Nothing is fetched: all values stand in the
// specification. Colours are the page's CSS variables, so that one drawing serves light and dark.

import type { Chart } from "./charts/chart.ts";

const refuse = (): Promise<never> => Promise.reject(new Error("a chart asks for nothing from elsewhere"));
const loader = { load: refuse, sanitize: refuse, http: refuse, file: refuse };

/** Warnings are defects of charts/: an axis that no values support and the like. */
const strict = {
  level: () => strict,
  error: (...words: readonly unknown[]) => fail(words),
  warn: (...words: readonly unknown[]) => fail(words),
  info: () => strict,
  debug: () => strict,
};
function fail(words: readonly unknown[]): never {
  throw words.find((word) => word instanceof Error) ?? new Error(`a chart cannot be drawn: ${words.map(String).join(" ")}`);
}

export async function drawChart({ spec }: Chart): Promise<string> {
  const [vega, { compile }] = await Promise.all([import("vega"), import("vega-lite")]);
  const view = new vega.View(vega.parse(compile(spec, { logger: strict }).spec), { renderer: "none", loader, logger: strict });
  try {
    return lean(await view.toSVG());
  } finally {
    view.finalize();
  }
}

/** What says nothing here: empty frames, roles of parts (the whole has one), fonts (the page's), attributes with their default. */
function lean(svg: string): string {
  // Texts hold no "<" or ">", and no text of a user stands in an attribute: what matches is a tag.
  return svg
    .replace(/<path class="(?:background|foreground)"[^>]*\/>/g, "")
    .replace(/<[^>]+>/g, (tag) =>
      tag
        .replace(/ (?:pointer-events|aria-[a-z]+|role|font-family|xmlns:xlink|version)="[^"]*"/g, "")
        .replace(/ (?:opacity|stroke-opacity|fill-opacity)="1"/g, "")
        .replace(/ class="mark-([a-z]+) [^"]*"/g, ' class="$1"')
        .replace(/\d+\.\d{3,}/g, (n) => String(Number(Number(n).toFixed(2)))),
    )
    .replace(
      /^<svg [^>]*?width="([\d.]+)" height="([\d.]+)"[^>]*>/,
      '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 $1 $2" width="$1" height="$2">',
    );
}
