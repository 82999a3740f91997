// HTML from templates: what is put into one is text, unless it was made by one. No text of a run, a file or a name becomes markup.

/** Markup, as against text. */
export class Markup {
  readonly text: string;
  constructor(text: string) {
    this.text = text;
  }
}

export type Content = string | number | Markup | readonly Content[];

const ENTITIES: Readonly<Record<string, string>> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };

export const escaped = (text: string): string => text.replace(/[&<>"']/g, (c) => ENTITIES[c]!);

function markupOf(content: Content): string {
  if (content instanceof Markup) return content.text;
  return typeof content === "object" ? content.map(markupOf).join("") : escaped(String(content));
}

/** markup`<p title="${name}">${words}</p>`: attributes stand in double quotes. */
export function markup(strings: TemplateStringsArray, ...contents: readonly Content[]): Markup {
  return new Markup(strings.reduce((text, piece, i) => text + markupOf(contents[i - 1]!) + piece));
}

/** JSON for the inside of a script element: no "<", so nothing in it can end the element or begin a comment. */
export function scriptJson(value: unknown): Markup {
  const text = JSON.stringify(value);
  return new Markup(text.replace(/[<>&\u2028\u2029]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`));
}
