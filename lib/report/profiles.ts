// Profiles of experts as a report, after figures 2 and 3 of the ESFT paper (arXiv 2407.01906): how much a task uses each expert, how few
// of them hold most of it, and how far the experts of several tasks are the same.

import { basename } from "node:path";
import { ConfigError } from "../errors.ts";
import type { ExpertSet } from "../experts/expert_set.ts";
import type { Profile } from "../experts/profile.ts";
import { ruleWords } from "../experts/rule_words.ts";
import { rank } from "../experts/scores.ts";
import type { ScoreKind, ScoreOptions } from "../experts/scores.ts";
import { selectExperts } from "../experts/select.ts";
import { count, percent } from "../format.ts";
import { MOST_SERIES, SHADES } from "./charts/chart.ts";
import type { Cell } from "./charts/chart.ts";
import { lines } from "./charts/lines.ts";
import { heatMap, matrix } from "./charts/shades.ts";
import type { Column, Fact, Figure, Report, Row, Section } from "./content.ts";

export interface NamedProfile {
  readonly file: string;
  readonly profile: Profile;
}

export interface ProfileView {
  /** Default "token". */
  readonly score?: ScoreKind | undefined;
  /** What is marked as selected; default 0.2. */
  readonly p?: number | undefined;
  /** Marked instead of what p selects; with one profile. */
  readonly experts?: ExpertSet | undefined;
}

/** A profile with what the figures need of it. */
interface Shown {
  readonly name: string;
  readonly profile: Profile;
  /** Shares of what each layer sums to: what is drawn. Of gate weights p selects by the sums themselves. */
  readonly scores: ReadonlyMap<number, Float64Array>;
  readonly selected: ExpertSet;
}

const WORDS: Readonly<Record<ScoreKind, string>> = {
  token: "share of its layer's routed tokens",
  gate: "share of its layer's gate weight",
  gradient: "share of its layer's ‖W ⊙ dW‖",
};

/** @throws ConfigError profiles of different models, a score that was not measured, experts that the model has not */
export function profileReport(all: readonly NamedProfile[], { score = "token", p = 0.2, experts }: ProfileView = {}): Report {
  requireOneModel(all);
  if (experts && all.length > 1)
    throw new ConfigError(`report: --experts marks the selection of one profile, found ${all.length} profiles; use --p`, {
      where: { key: "experts" },
    });
  const names = distinct(all.map(({ file }) => basename(file).replace(/(?:\.profile)?\.json$/, "")));
  const options: ScoreOptions = { score, ...(score === "gate" ? { gateNormalize: "perLayer" } : {}) };
  const shown = all.map(({ profile }, i): Shown => {
    experts?.validate(profile.layout);
    const scores = new Map(profile.layers.map((layer) => [layer, profile.scores(layer, options)]));
    return { name: names[i]!, profile, scores, selected: experts ?? selectExperts(profile, { score, p }) };
  });
  const rule = ruleWords(experts?.rule);
  const marked = experts ? "selected" : `selected at p = ${p}`;
  const sections: Section[] = [
    { title: shown.length > 1 ? "What each task uses" : "What the task uses", figures: shown.map((s, i) => affinity(s, i, score, marked)) },
    {
      title: "How many experts it takes",
      figures: [mass(shown, score, experts || score === "gate" ? undefined : p), perLayer(shown, marked)],
    },
    ...(shown.length > 1 ? [{ title: "Experts that tasks share", figures: shared(shown, marked) }] : []),
  ];
  const [first] = shown;
  return {
    title: shown.length === 1 ? `Experts of ${first!.name}` : `Experts of ${shown.length} tasks`,
    about: aboutModel(first!.profile),
    facts: shown.length === 1 ? factsOf(first!, rule === null ? marked : `${marked}: ${rule}`) : shown.map((s) => factOf(s, marked)),
    remarks: shown.flatMap((s) => s.selected.warnings.map((w) => `${s.name}: ${w}`)),
    sections,
  };
}

function requireOneModel(all: readonly NamedProfile[]): void {
  const [first, ...others] = all;
  const identity = ({ profile }: NamedProfile): string => JSON.stringify([[...profile.layout], profile.data.model?.fingerprint]);
  for (const other of others)
    if (identity(other) !== identity(first!))
      throw new ConfigError(
        `${other.file}: expected a profile of the model that ${first!.file} was measured on, found one of another; report them apart`,
        { where: { file: other.file } },
      );
}

/** Names that tell the files apart: of equal ones the later get the first number that makes no name that is there. */
function distinct(names: readonly string[]): string[] {
  const taken = new Set<string>();
  return names.map((name) => {
    let own = name;
    for (let n = 2; taken.has(own) || (own !== name && names.includes(own)); n++) own = `${name} (${n})`;
    taken.add(own);
    return own;
  });
}

function aboutModel(profile: Profile): string {
  const { model, experts, topK } = profile.data;
  const of = model?.name === undefined ? "" : ` of ${model.name}`;
  return `${experts} routed experts in each of ${profile.layers.length} layers${of}, of which every token visits ${topK}.`;
}

const spent = (s: Shown): string => `${s.selected.count} of ${s.profile.expertCount}`;

function factOf(s: Shown, marked: string): Fact {
  return { label: s.name, value: spent(s), note: `experts ${marked}, from ${count(s.profile.tokens)} tokens` };
}

function factsOf(s: Shown, marked: string): Fact[] {
  const { profile, selected } = s;
  const share = (kind: "token" | "gate"): number => {
    const of = (layer: number): number => {
      const scores = profile.scores(layer, { score: kind, ...(kind === "gate" ? { gateNormalize: "perLayer" as const } : {}) });
      return selected.ids(layer).reduce((sum, e) => sum + scores[e]!, 0);
    };
    return profile.layers.reduce((sum, layer) => sum + of(layer), 0) / profile.layers.length;
  };
  return [
    { label: "Experts selected", value: spent(s), note: `${percent(selected.count / profile.expertCount)}, ${marked}` },
    { label: "Tokens covered", value: percent(share("token")), note: "of those that are routed" },
    { label: "Gate weight covered", value: percent(share("gate")), note: "mean over layers" },
    { label: "Tokens profiled", value: count(profile.tokens), note: `${count(profile.data.sequences)} sequences` },
  ];
}

// ── Affinity ──

/** Bounds of the shades, in multiples of the even share 1/E. */
const MULTIPLES = [0.25, 0.5, 1, 1.5, 2, 3, 5, 10];

function affinity({ name, scores, selected }: Shown, at: number, score: ScoreKind, marked: string): Figure {
  const values = [...scores].flatMap(([layer, row]) =>
    Array.from(row, (value, expert) => ({ layer, expert, multiple: value * row.length, marked: selected.has(layer, expert) ? 1 : 0 })),
  );
  const most = Math.max(...[...scores.values()].map((row) => row.length));
  const columns: Column[] = [
    { key: "layer", label: "layer", digits: 0 },
    ...Array.from({ length: most }, (_, e): Column => ({ key: `e${e}`, label: String(e), digits: 4 })),
    { key: "selected", label: "selected, best first" },
  ];
  const rows = [...scores].map(([layer, row]): Row => {
    const cells: Record<string, Cell> = { layer, selected: (selected.layers.get(layer)?.ranked ?? []).join(" ") };
    row.forEach((value, e) => (cells[`e${e}`] = value));
    return cells;
  });
  const shades = [`< ${MULTIPLES[0]}×`, ...MULTIPLES.map((m) => `≥ ${m}×`), marked];
  if (shades.length !== SHADES + 1) throw new Error("profiles.ts: bounds for every shade");
  return {
    id: `affinity-${at + 1}`,
    title: `Affinity of experts: ${name}`,
    about:
      at > 0
        ? `As above. Framed: ${marked}.`
        : `Each cell is an expert: its ${WORDS[score]}, shaded by how many times the even share it is (1× is what every expert would have if all were used alike). Framed: ${marked}.`,
    chart: heatMap(values, {
      x: { key: "expert", title: "expert" },
      y: { key: "layer", title: "layer" },
      value: "multiple",
      bounds: MULTIPLES,
      shades,
    }),
    table: { columns, rows },
  };
}

// ── Mass ──

/** Mean over layers of what the n best of each hold, n from 0 to the most experts of a layer. */
function cumulative({ scores }: Shown): number[] {
  const layers = [...scores.values()].map((row) => {
    let sum = 0;
    return [0, ...rank(row).map((e) => (sum += row[e]!))];
  });
  const most = Math.max(...layers.map((l) => l.length));
  return Array.from({ length: most }, (_, n) => layers.reduce((s, l) => s + (l[n] ?? l.at(-1)!), 0) / layers.length);
}

/** @param p where it is a share of what a layer sums to */
function mass(all: readonly Shown[], score: ScoreKind, p: number | undefined): Figure {
  const curves = all.map((s) => cumulative(s));
  const names = all.map((s) => s.name);
  const values = curves.flatMap((curve, i) => curve.map((share, n) => ({ n, share, series: names[i]! })));
  const rows = curves[0]!.map((_, n): Row => ({ n, ...Object.fromEntries(curves.map((curve, i) => [`s${i}`, curve[n] ?? null])) }));
  const columns: Column[] = [
    { key: "n", label: "experts per layer", digits: 0 },
    ...names.map((label, i): Column => ({ key: `s${i}`, label, digits: 4 })),
  ];
  const { names: drawn, rest } = most(names);
  return {
    id: "mass",
    title: "Cumulative affinity",
    about: `What the most used experts of a layer hold together (${WORDS[score]}), mean over layers. The steeper the beginning, the fewer experts a task needs.${p === undefined ? "" : ` The dashed line is p = ${p}.`}`,
    chart: lines(values.filter((v) => drawn.includes(v.series)), { x: { key: "n", title: "experts of a layer, most used first" }, y: { key: "share", title: "share", zero: true, labels: "share" }, names: drawn, ...(p === undefined ? {} : { rule: p }) }), // prettier-ignore
    table: { columns, rows },
    ...rest,
  };
}

function perLayer(all: readonly Shown[], marked: string): Figure {
  const names = all.map((s) => s.name);
  const { layers } = all[0]!.profile;
  const rows = layers.map((layer): Row => ({ layer, ...Object.fromEntries(all.map((s, i) => [`s${i}`, s.selected.ids(layer).length])) }));
  const values = all.flatMap((s) => layers.map((layer) => ({ layer, experts: s.selected.ids(layer).length, series: s.name })));
  const columns: Column[] = [
    { key: "layer", label: "layer", digits: 0 },
    ...names.map((label, i): Column => ({ key: `s${i}`, label, digits: 0 })),
  ];
  const { names: drawn, rest } = most(names);
  return {
    id: "per-layer",
    title: "Experts per layer",
    about: `How many experts of each layer are ${marked}.`,
    chart: lines(values.filter((v) => drawn.includes(v.series)), { x: { key: "layer", title: "layer" }, y: { key: "experts", title: "experts", zero: true, labels: "whole" }, names: drawn, dots: drawn }), // prettier-ignore
    table: { columns, rows },
    ...rest,
  };
}

/** The series that a chart can show. */
function most(names: readonly string[]): { readonly names: readonly string[]; readonly rest: { readonly note?: string } } {
  if (names.length <= MOST_SERIES) return { names, rest: {} };
  return {
    names: names.slice(0, MOST_SERIES),
    rest: { note: `The chart shows the first ${MOST_SERIES} of ${names.length}; the table has all.` },
  };
}

// ── Overlap ──

function shared(all: readonly Shown[], marked: string): Figure[] {
  const K = all[0]!.profile.data.topK;
  const best = all.map((s) => new Map([...s.scores].map(([layer, row]) => [layer, rank(row).slice(0, s.profile.topK(layer))])));
  const chosen = all.map((s) => new Map(s.profile.layers.map((layer) => [layer, s.selected.ids(layer)])));
  const largest = Math.max(1, ...all.map((s) => s.selected.count / s.profile.layers.length));
  return [
    square(all, best, { id: "shared-top", title: `Shared among the ${K} most used`, most: K, about: `How many of each layer's ${K} most used experts two tasks have in common, mean over layers; by chance ${((K * K) / all[0]!.profile.experts).toFixed(1)}.` }), // prettier-ignore
    square(all, chosen, { id: "shared-selected", title: "Shared among the selected", most: largest, about: `Experts of a layer ${marked} for both tasks, mean over layers; on the diagonal those of the task itself.` }), // prettier-ignore
  ];
}

type ByLayer = ReadonlyMap<number, readonly number[]>;

function square(
  all: readonly Shown[],
  sets: readonly ByLayer[],
  { most: top, ...words }: Pick<Figure, "id" | "title" | "about"> & { readonly most: number },
): Figure {
  const names = all.map((s) => s.name);
  const common = (a: ByLayer, b: ByLayer): number =>
    [...a].reduce((sum, [layer, ids]) => sum + ids.filter((e) => b.get(layer)?.includes(e)).length, 0) / a.size;
  const rows = names.map((name, i): Row => ({ name, ...Object.fromEntries(names.map((_, j) => [`s${j}`, common(sets[i]!, sets[j]!)])) }));
  const values = rows.flatMap((row, i) => names.map((x, j) => ({ x, y: names[i]!, value: row[`s${j}`] ?? 0 })));
  return {
    ...words,
    chart: matrix(values, { names, value: "value", most: top, digits: 1 }),
    half: names.length <= 4,
    table: { columns: [{ key: "name", label: "task" }, ...names.map((label, j): Column => ({ key: `s${j}`, label, digits: 2 }))], rows },
  };
}
