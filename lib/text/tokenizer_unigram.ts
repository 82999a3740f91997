// Unigram language model: the best path through all segmentations of a word (Viterbi), as the Rust library computes it.

import { ConfigError } from "../errors.ts";
import { byteTokenName, utf8 } from "./tokenizer_bytes.ts";
import type { TokenModel } from "./tokenizer_model.ts";

type Config = Readonly<Record<string, unknown>>;

const UNK_PENALTY = 10;

interface Node {
  readonly next: Map<string, Node>;
  id: number;
}

export class UnigramModel implements TokenModel {
  readonly vocab: ReadonlyMap<string, number>;
  readonly #scores: number[] = [];
  readonly #root: Node = { next: new Map(), id: -1 };
  readonly #unkId: number | null;
  readonly #unkScore: number;
  readonly #byteFallback: boolean;

  constructor(c: Config) {
    const entries = c["vocab"];
    if (!Array.isArray(entries))
      throw new ConfigError("tokenizer.json: model.vocab of a Unigram model must be an array", { where: { key: "model.vocab" } });
    const vocab = new Map<string, number>();
    entries.forEach((entry: unknown, id) => {
      const [token, score] = entry as [unknown, unknown];
      if (typeof token !== "string" || typeof score !== "number") {
        throw new ConfigError(`tokenizer.json: model.vocab[${id}] must be [token, score]`, { where: { key: `model.vocab[${id}]` } });
      }
      vocab.set(token, id);
      this.#scores.push(score);
      let node = this.#root;
      for (const char of token) {
        let next = node.next.get(char);
        if (next === undefined) node.next.set(char, (next = { next: new Map(), id: -1 }));
        node = next;
      }
      node.id = id;
    });
    this.vocab = vocab;
    this.#unkId = typeof c["unk_id"] === "number" ? c["unk_id"] : null;
    this.#unkScore = this.#scores.reduce((a, b) => Math.min(a, b), Number.POSITIVE_INFINITY) - UNK_PENALTY;
    this.#byteFallback = c["byte_fallback"] === true;
  }

  encode(word: string, out: number[]): void {
    for (const piece of this.#pieces(word)) this.#emit(piece, out);
  }

  spell(word: string): string[] {
    return this.#pieces(word).flatMap((piece) => {
      const ids: number[] = [];
      this.#emit(piece, ids);
      return ids.length === 1 ? [piece] : Array.from(utf8(piece), byteTokenName);
    });
  }

  #pieces(word: string): string[] {
    const chars = Array.from(word);
    const n = chars.length;
    const best = new Float64Array(n + 1);
    const from = new Int32Array(n + 1).fill(-1);
    const ids = new Int32Array(n + 1);
    const offer = (start: number, end: number, id: number, score: number): void => {
      const total = (best[start] as number) + score;
      if ((from[end] as number) >= 0 && total <= (best[end] as number)) return;
      best[end] = total;
      from[end] = start;
      ids[end] = id;
    };
    for (let start = 0; start < n; start++) {
      let single = false;
      let node: Node | undefined = this.#root.next.get(chars[start] as string);
      for (let end = start + 1; node !== undefined; end++) {
        if (node.id >= 0) {
          offer(start, end, node.id, this.#scores[node.id] as number);
          if (end === start + 1) single = true;
        }
        node = end < n ? node.next.get(chars[end] as string) : undefined;
      }
      if (!single) offer(start, start + 1, this.#unknown(chars[start] as string), this.#unkScore);
    }
    const pieces: { start: number; end: number; unk: boolean }[] = [];
    for (let end = n; end > 0;) {
      const start = from[end] as number;
      const unk = ids[end] === this.#unkId;
      const last = pieces.at(-1);
      if (unk && last?.unk === true) last.start = start; // runs of unknown characters are one piece
      else pieces.push({ start, end, unk });
      end = start;
    }
    return pieces.reverse().map(({ start, end }) => chars.slice(start, end).join(""));
  }

  #unknown(char: string): number {
    if (this.#unkId !== null) return this.#unkId;
    throw new ConfigError(`tokenizer.json: ${JSON.stringify(char)} is not in the vocabulary and model.unk_id is not set`, {
      where: { key: "model.unk_id" },
    });
  }

  #emit(piece: string, out: number[]): void {
    const id = this.vocab.get(piece);
    if (id !== undefined) {
      out.push(id);
      return;
    }
    if (this.#byteFallback) {
      const bytes = Array.from(utf8(piece), (b) => this.vocab.get(byteTokenName(b)));
      if (bytes.every((b) => b !== undefined)) {
        for (const b of bytes) out.push(b);
        return;
      }
    }
    out.push(this.#unknown(piece));
  }
}
