// The annotated tree of lib and csrc in ARCHITECTURE.md, one line a file (a header and its sources are one), from the first sentence of
// each file's opening comment. Run alone it fails when the page and the files differ; with --write it rewrites the page.

import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { root } from "./run.ts";

const page = path.join(root, "ARCHITECTURE.md");
const [BEGIN, END] = ["<!-- tree: npm run format -->\n```\n", "```\n<!-- end of tree -->"];
const WIDTH = 140;

/** The first sentence of the opening comment; empty without one. */
export function firstSentence(source: string): string {
  const paragraph: string[] = [];
  for (const line of source.replace(/^#!.*\n/, "").split("\n")) {
    const said = /^\/\/ ?(.*)$/.exec(line)?.[1];
    if (said === undefined || said === "" || /^( {2}|─)/.test(said)) break;
    paragraph.push(said);
  }
  const text = paragraph.join(" ").replace(/\s+/g, " ");
  const stop = /[.?](?= [A-Z`"])|; |[.:]$/.exec(text);
  return (stop ? text.slice(0, stop.index) : text).trim();
}

/** Header, sources and reference of one thing. */
const stemOf = (file: string): string => file.replace(/(_ref)?\.(h|cuh|cc|cu|ts)$/, "");

function linesOf(folder: string, depth: number): string[] {
  const entries = readdirSync(path.join(root, folder), { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1));
  const groups = new Map<string, string[]>();
  for (const e of entries)
    if (e.isFile() && /\.(ts|h|cuh|cc|cu)$/.test(e.name)) groups.set(stemOf(e.name), [...(groups.get(stemOf(e.name)) ?? []), e.name]);
  const indent = "  ".repeat(depth);
  const out = [...groups].map(([stem, files]) => {
    const best = files.find((f) => /\.(h|cuh)$/.test(f)) ?? files.find((f) => !f.includes("_ref.")) ?? files[0] ?? "";
    // An op's own name before what it does says nothing beside the file's.
    const what = firstSentence(readFileSync(path.join(root, folder, best), "utf8")).replace(new RegExp(`^${stem}( —|:) `), "");
    const line = `${indent}${stem.padEnd(Math.max(1, 30 - indent.length))} ${what}`;
    return line.length > WIDTH ? `${line.slice(0, line.lastIndexOf(" ", WIDTH - 2))} …` : line;
  });
  for (const e of entries) if (e.isDirectory()) out.push(`${indent}${e.name}/`, ...linesOf(path.join(folder, e.name), depth + 1));
  return out;
}

export function tree(): string {
  return ["lib", "csrc"].flatMap((folder) => [`${folder}/`, ...linesOf(folder, 1)]).join("\n") + "\n";
}

if (process.argv[1] === import.meta.filename) {
  const text = readFileSync(page, "utf8");
  const [begin, end] = [text.indexOf(BEGIN), text.indexOf(END)];
  const wanted = text.slice(0, begin + BEGIN.length) + tree() + text.slice(end);
  if (begin < 0 || end < 0) throw new Error(`ARCHITECTURE.md: expected ${JSON.stringify(BEGIN)} … ${JSON.stringify(END)}, found none`);
  if (process.argv.includes("--write")) writeFileSync(page, wanted);
  else if (wanted !== text) {
    console.log("ARCHITECTURE.md: the tree is not what the files say; npm run format rewrites it");
    process.exitCode = 1;
  }
}
