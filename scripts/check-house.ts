// Proves the rules of scripts/house-rules.ts: `npx tsx scripts/check-house.ts`, a part of `npm run check`. One line a fault:
//   arrow lib/train/run.ts → lib/moe_model.ts: points up: "train" stands below "moe_model"
//   circle lib/a.ts → lib/b.ts → lib/a.ts: each file needs the others; …
//   name lib/train/run.ts: line 12 spells the family "…"; …
//
// Imports are read by dependency-cruiser. It needs the JavaScript API of the compiler, which TypeScript 7 does not have: package.json
// holds TypeScript 6 beside it, under the names that Microsoft recommends; `tsc` is 7.

import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { cruise, type IForbiddenRuleType, type IViolation } from "dependency-cruiser";
import ts from "typescript";
import { supportedModelTypes } from "../lib/model/families/index.ts";
import { arrows, families, tensorNames } from "./house-rules.ts";

const partPattern = (part: string): string => `lib/${part}(?:\\.ts$|/)`;
const oneOf = (parts: readonly string[]): string => `^(?:${parts.map(partPattern).join("|")})`;

/** The table as rules of dependency-cruiser, one a part. */
function rules(): IForbiddenRuleType[] {
  const parts = Object.keys(arrows);
  for (const [i, part] of parts.entries()) {
    const early = arrows[part]?.find((name) => !parts.slice(0, i).includes(name));
    if (early !== undefined) throw new Error(`house-rules.ts: "${part}" may import "${early}", which no earlier line describes`);
  }
  const severity = "error" as const;
  return [
    { name: "circle", severity, from: {}, to: { circular: true } },
    { name: "no part", severity, from: { path: "^lib/", pathNot: oneOf(parts) }, to: {} },
    { name: "unknown", severity, from: {}, to: { path: "^lib/", pathNot: oneOf(parts) } },
    {
      name: "door",
      severity,
      from: { pathNot: `^${families.folder}` },
      to: { path: `^${families.folder}`, pathNot: `^${families.door}$` },
    },
    ...Object.entries(arrows).map(([part, may]) => ({
      name: part,
      severity,
      from: { path: oneOf([part]) },
      to: { path: "^lib/", pathNot: oneOf([part, ...may]) },
    })),
  ];
}

/** A circle begins at its first file by name, wherever it was entered. */
function circleOf(v: IViolation): string[] {
  const files = (v.cycle ?? []).map(({ name }) => name);
  const first = files.indexOf([...files].sort()[0] ?? "");
  return [...files.slice(first), ...files.slice(0, first)];
}

function faultOf(v: IViolation): string {
  const arrow = `arrow ${v.from} → ${v.to}: `;
  if (v.rule.name === "circle") {
    const circle = circleOf(v);
    return `circle ${[...circle, circle[0]].join(" → ")}: each file needs the others; move what they share below them`;
  }
  const parts = Object.keys(arrows);
  const partOf = (file: string): number => parts.findIndex((part) => new RegExp(oneOf([part])).test(file));
  const [from, to] = [partOf(v.from), partOf(v.to)];
  if (from < 0 || to < 0) return `part ${from < 0 ? v.from : v.to}: belongs to no part of scripts/house-rules.ts; give it a line`;
  if (v.rule.name === "door") return `${arrow}of the families only ${families.door} is imported from outside`;
  if (to > from) return `${arrow}points up: "${parts[from]}" stands below "${parts[to]}"`;
  return `${arrow}"${parts[from]}" may not know "${parts[to]}", only ${arrows[v.rule.name]?.join(", ") || "nothing"}`;
}

async function importFaults(root: string): Promise<string[]> {
  const { output } = await cruise(["lib"], {
    baseDir: root,
    validate: true,
    ruleSet: { forbidden: rules() },
    tsPreCompilationDeps: true, // imports of types count
    doNotFollow: { path: "node_modules" },
  });
  if (typeof output === "string") throw new Error("dependency-cruiser: expected its result as an object");
  const read = output.modules.filter(({ source }) => source.startsWith("lib/")).length;
  const imports = output.summary.totalDependenciesCruised ?? 0;
  if (read === 0 || imports < read) throw new Error(`dependency-cruiser read ${read} files and ${imports} imports of ${root}/lib`);
  return output.summary.violations.map(faultOf);
}

/** A model type in every way of writing it, and without its version: deepseek_v2, DeepseekV2, DeepSeek-V2, deepseek. Not in a path. */
function familyPattern(type: string): RegExp {
  const words = type.split("_");
  const stem = words.slice(0, words.findLastIndex((word) => !/^(?:v\d+|moe|text)$/.test(word)) + 1);
  const spelled = stem.join("").length >= 5 ? stem : words;
  return new RegExp(`(?<!/)${spelled.join("[-_ .]?")}`, "i");
}

const lineOf = (source: ts.SourceFile, node: ts.Node): number => source.getLineAndCharacterOfPosition(node.getStart(source)).line + 1;

/** Every text of the code where a name can stand: identifiers, strings, templates and patterns, without the comments. */
function texts(source: ts.SourceFile): { text: string; line: number }[] {
  const found: { text: string; line: number }[] = [];
  const visit = (node: ts.Node): void => {
    if (ts.isIdentifier(node) || ts.isLiteralExpression(node) || ts.isTemplateHead(node) || ts.isTemplateMiddleOrTemplateTail(node))
      found.push({ text: node.text, line: lineOf(source, node) });
    ts.forEachChild(node, visit);
  };
  visit(source);
  return found;
}

/** Comparisons of a model type with a text: what they branch on is a family, served or not. */
function branches(source: ts.SourceFile): { text: string; line: number }[] {
  const found: { text: string; line: number }[] = [];
  const isType = (node: ts.Node): boolean => /model_?type\b\W*$/i.test(node.getText(source));
  const visit = (node: ts.Node): void => {
    const sides = ts.isBinaryExpression(node) ? [node.left, node.right] : [];
    const compared = sides.some(isType) && sides.some(ts.isStringLiteralLike);
    if (compared) found.push({ text: node.getText(source), line: lineOf(source, node) });
    if (ts.isSwitchStatement(node) && isType(node.expression)) found.push({ text: "switch", line: lineOf(source, node) });
    ts.forEachChild(node, visit);
  };
  visit(source);
  return found;
}

function nameFaults(root: string): string[] {
  const types = supportedModelTypes().map((type) => ({ type, pattern: familyPattern(type) }));
  const faults: string[] = [];
  const files = readdirSync(path.join(root, "lib"), { recursive: true, encoding: "utf8" }).map((name) => path.posix.join("lib", name));
  for (const file of files.filter((name) => name.endsWith(".ts") && !name.startsWith(families.folder)).sort()) {
    const source = ts.createSourceFile(file, readFileSync(path.join(root, file), "utf8"), ts.ScriptTarget.ESNext);
    const add = (line: number, what: string): unknown => faults.push(`name ${file}: line ${line} ${what}; only ${families.folder} may`);
    for (const { text, line } of texts(source)) {
      const family = types.find(({ pattern }) => pattern.test(text));
      if (family) add(line, `spells the family "${family.type}"`);
      if (tensorNames.some((pattern) => pattern.test(text))) add(line, `spells names of tensors: ${JSON.stringify(text)}`);
    }
    for (const { text, line } of branches(source)) add(line, `branches on a family: ${text}`);
  }
  return faults;
}

/** What is wrong with root/lib, one line a fault. */
export async function checkHouse(root: string): Promise<string[]> {
  return [...new Set([...(await importFaults(root)), ...nameFaults(root)])];
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const lines = await checkHouse(path.resolve(import.meta.dirname, ".."));
  for (const line of lines) console.log(line);
  process.exitCode = lines.length === 0 ? 0 : 1;
}
