// Import of the official routing logs: expert_weights_<layer>.txt, one line per forward pass of T tokens:
//
//   id \t id \t … (T·K expert ids) \t\t w \t w \t … (T·K gate weights, 4 decimals)
//
// <layer> is the 0-based decoder layer. Files lie in the directory itself or in its rank_<n> folders. The files name neither
// K nor E; trace_shape.ts says what is concluded from the ids.
import { optionsArgument, pathArgument } from "../arguments.ts";
import { readdir } from "node:fs/promises";
import { basename, join } from "node:path";
import { ConfigError, DataError } from "../errors.ts";
import { RegularFile } from "../files/regular.ts";
import type { LongTask } from "../task.ts";
import { ioError, throwIfAborted } from "../task.ts";
import { Profile } from "./profile.ts";
import { inferExperts, MAX_ID, TopKEvidence } from "./trace_shape.ts";

export interface TraceOptions extends LongTask {
  /** Routed experts per token; inferred when absent. */
  readonly topK?: number | undefined;
  /** Routed experts per layer; inferred when absent. */
  readonly experts?: number | undefined;
}

/** Running sums of one layer, indexed by expert id; holes are zero. */
class LayerSums {
  readonly layer: number;
  slots = 0; // T·K
  lines = 0;
  maxId = -1;
  readonly counts: number[] = [];
  readonly gateSums: number[] = [];
  readonly sequenceTokenSums: number[] = [];
  readonly sequenceGateSums: number[] = []; // without the factor K

  constructor(layer: number) {
    this.layer = layer;
  }
}

/**
 * Reads the routing logs of one task into a profile.
 * @throws DataError a broken line (file and line number) · ConfigError topK or experts cannot be concluded · IoError
 */
export async function readTraces(dir: string, asked: TraceOptions = {}): Promise<Profile> {
  pathArgument(dir, "readTraces: dir");
  const options = optionsArgument(asked, "readTraces: options");
  for (const key of ["topK", "experts"] as const) {
    const value = options[key];
    if (value !== undefined && (!Number.isSafeInteger(value) || value < 1))
      throw new ConfigError(`traces: expected ${key} >= 1, found ${value}`, { where: { option: key } });
  }
  const files = await findTraces(dir);
  const topK = new TopKEvidence(options.topK);
  const layers: LayerSums[] = [];
  for (const [layer, paths] of files) {
    const sums = new LayerSums(layer);
    for (const path of paths) await readTraceFile(path, sums, topK, options);
    layers.push(sums);
  }
  const K = topK.conclude(dir);
  const E = options.experts ?? inferExperts(dir, layers);
  const first = layers[0]!;
  for (const l of layers)
    if (l.lines !== first.lines || l.slots !== first.slots)
      throw new DataError(
        `${dir}: expected the same tokens in every layer, found ${first.lines} lines with ${first.slots / K} tokens in layer ${first.layer} and ${l.lines} lines with ${l.slots / K} tokens in layer ${l.layer}; are the logs complete?`,
        { where: { file: dir, layer: l.layer } },
      );
  const full = (values: readonly number[], scale = 1) => Array.from({ length: E }, (_, e) => (values[e] ?? 0) * scale);
  return new Profile(
    {
      source: "traces",
      data: { name: basename(dir) },
      topK: K,
      experts: E,
      sequences: first.lines,
      layers: layers.map((l) => ({
        layer: l.layer,
        tokens: l.slots / K,
        counts: full(l.counts),
        gateSums: full(l.gateSums),
        sequenceTokenSums: full(l.sequenceTokenSums),
        sequenceGateSums: full(l.sequenceGateSums, K),
      })),
    },
    dir,
  );
}

async function findTraces(dir: string): Promise<[number, string[]][]> {
  const byLayer = new Map<number, string[]>();
  const look = async (folder: string): Promise<string[]> => {
    const names = await readdir(folder).catch((error: unknown) => {
      throw ioError(error, `cannot open the traces ${folder}`, { file: folder });
    });
    for (const name of names) {
      const layer = /^expert_weights_(0|[1-9]\d{0,5})\.txt$/.exec(name)?.[1];
      if (layer !== undefined) byLayer.set(Number(layer), [...(byLayer.get(Number(layer)) ?? []), join(folder, name)]);
    }
    return names;
  };
  const ranks = (await look(dir)).filter((n) => /^rank_\d+$/.test(n));
  if (byLayer.size === 0) for (const rank of ranks.sort((a, b) => Number(a.slice(5)) - Number(b.slice(5)))) await look(join(dir, rank));
  if (byLayer.size === 0) throw new DataError(`${dir}: expected files expert_weights_<layer>.txt, found none`, { where: { file: dir } });
  return [...byLayer].sort(([a], [b]) => a - b);
}

const CHUNK = 1 << 20;

async function readTraceFile(path: string, sums: LayerSums, topK: TopKEvidence, options: TraceOptions): Promise<void> {
  let line = 1;
  const fail = (message: string): never => {
    throw new DataError(`${path}:${line}: ${message}`, { where: { file: path, line } });
  };
  let rest: Buffer = Buffer.alloc(0);
  const linesBefore = sums.lines;
  try {
    await using file = await RegularFile.open(path);
    for (let from = 0; from < file.size; from += CHUNK) {
      throwIfAborted(options.signal, `reading ${path}`);
      const bytes = Buffer.concat([rest, await file.read(from, Math.min(from + CHUNK, file.size))]);
      let at = 0;
      for (let end; (end = bytes.indexOf(10, at)) !== -1; at = end + 1, line++) addLine(bytes.subarray(at, end), sums, topK, fail);
      rest = bytes.subarray(at);
      if (rest.length > 1 << 28) fail("expected lines below 256 MiB; is this a routing log?");
    }
  } catch (error) {
    throw ioError(error, `cannot read ${path}`, { file: path });
  }
  if (rest.length > 0) addLine(rest, sums, topK, fail);
  if (sums.lines === linesBefore)
    throw new DataError(`${path}: expected at least one line, found an empty file`, { where: { file: path } });
}

function addLine(bytes: Buffer, sums: LayerSums, topK: TopKEvidence, fail: (message: string) => never): void {
  const [idText, weightText, extra] = bytes.toString("latin1").replace(/\r$/, "").split("\t\t");
  if (!idText || !weightText || extra !== undefined)
    return fail(
      `expected expert ids, two tabs, gate weights; found ${extra === undefined ? "no pair of tabs between two lists" : "more than one pair of tabs"}`,
    );
  const ids = idText.split("\t").map((text) => {
    const id = /^\d{1,5}$/.test(text) ? Number(text) : NaN;
    return id <= MAX_ID ? id : fail(`expected expert ids from 0 to ${MAX_ID}, found ${JSON.stringify(text.slice(0, 40))}`);
  });
  const weights = weightText.split("\t").map((text) => {
    const weight = /^\d+(\.\d*)?(e-?\d+)?$/.test(text) ? Number(text) : NaN;
    return Number.isFinite(weight) ? weight : fail(`expected gate weights >= 0, found ${JSON.stringify(text.slice(0, 40))}`);
  });
  if (ids.length !== weights.length) fail(`expected one gate weight per expert id, found ${ids.length} ids and ${weights.length} weights`);
  topK.add(ids, fail);

  const n = ids.length;
  const lineCounts = new Map<number, number>();
  const lineGates = new Map<number, number>();
  for (let i = 0; i < n; i++) {
    const id = ids[i]!;
    const w = weights[i]!;
    sums.gateSums[id] = (sums.gateSums[id] ?? 0) + w; // file order: the order of the official sums
    lineCounts.set(id, (lineCounts.get(id) ?? 0) + 1);
    lineGates.set(id, (lineGates.get(id) ?? 0) + w);
    if (id > sums.maxId) sums.maxId = id;
  }
  for (const [id, c] of lineCounts) {
    sums.counts[id] = (sums.counts[id] ?? 0) + c;
    sums.sequenceTokenSums[id] = (sums.sequenceTokenSums[id] ?? 0) + c / n; // n = K·L
    sums.sequenceGateSums[id] = (sums.sequenceGateSums[id] ?? 0) + lineGates.get(id)! / n;
  }
  sums.slots += n;
  sums.lines++;
}
