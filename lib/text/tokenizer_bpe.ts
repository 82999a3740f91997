// Byte-pair encoding of one word, merge for merge as the Rust library does it (heap of candidate merges: O(n log n) in the word,
// which matters where there is no pre-tokenizer and a whole document is one word).

import { ConfigError } from "../errors.ts";
import { byteTokenName, utf8 } from "./tokenizer_bytes.ts";
import { readVocab, type TokenModel } from "./tokenizer_model.ts";

type Config = Readonly<Record<string, unknown>>;

const CACHED_WORDS = 50_000;
const CACHED_LENGTH = 256;
const POSITIONS = 2 ** 32; // heap key = rank · 2^32 + position: exact below 2^53 for up to 2^21 merges

export class BpeModel implements TokenModel {
  readonly vocab: ReadonlyMap<string, number>;
  readonly #rankOfPair = new Map<number, number>(); // left · stride + right → rank
  readonly #mergedId: number[] = []; // rank → id of the merged token
  readonly #stride: number;
  readonly #unkId: number | null;
  readonly #fuseUnk: boolean;
  readonly #byteIds: readonly (number | undefined)[] | null;
  readonly #ignoreMerges: boolean;
  readonly #prefix: string;
  readonly #suffix: string;
  readonly #cache = new Map<string, readonly number[]>();

  constructor(c: Config) {
    this.vocab = readVocab(c["vocab"]);
    if (typeof c["dropout"] === "number" && c["dropout"] > 0) {
      throw new ConfigError("tokenizer.json: model.dropout is set, which makes every encoding random; remove it", {
        where: { key: "model.dropout" },
      });
    }
    this.#prefix = String(c["continuing_subword_prefix"] ?? "");
    this.#suffix = String(c["end_of_word_suffix"] ?? "");
    this.#fuseUnk = c["fuse_unk"] === true;
    this.#ignoreMerges = c["ignore_merges"] === true;
    this.#stride = Math.max(0, ...maxima(this.vocab.values())) + 1;
    const unk = c["unk_token"];
    this.#unkId = typeof unk === "string" ? this.#need(unk, "model.unk_token") : null;
    this.#byteIds = c["byte_fallback"] === true ? Array.from({ length: 256 }, (_, b) => this.vocab.get(byteTokenName(b))) : null;
    this.#readMerges(c["merges"]);
  }

  #need(token: string, key: string): number {
    const id = this.vocab.get(token);
    if (id === undefined)
      throw new ConfigError(`tokenizer.json: ${key} names ${JSON.stringify(token)}, which is not in model.vocab`, { where: { key } });
    return id;
  }

  #readMerges(merges: unknown): void {
    if (!Array.isArray(merges)) throw new ConfigError("tokenizer.json: model.merges must be an array", { where: { key: "model.merges" } });
    if (merges.length >= 2 ** 21)
      throw new ConfigError(`tokenizer.json: ${merges.length} merges; at most 2^21 are supported`, { where: { key: "model.merges" } });
    merges.forEach((merge: unknown, rank) => {
      const pair: unknown = typeof merge === "string" ? merge.split(" ") : merge;
      if (!Array.isArray(pair) || pair.length !== 2 || typeof pair[0] !== "string" || typeof pair[1] !== "string") {
        throw new ConfigError(`tokenizer.json: model.merges[${rank}] must be a pair of tokens, not ${JSON.stringify(merge)}`, {
          where: { key: `model.merges[${rank}]` },
        });
      }
      const key = `model.merges[${rank}]`;
      const left = this.#need(pair[0], key);
      const right = this.#need(pair[1], key);
      this.#mergedId.push(this.#need(pair[0] + pair[1].slice(this.#prefix.length), key));
      this.#rankOfPair.set(left * this.#stride + right, rank);
    });
  }

  encode(word: string, out: number[]): void {
    if (this.#ignoreMerges) {
      const whole = this.vocab.get(word);
      if (whole !== undefined) {
        out.push(whole);
        return;
      }
    }
    const known = this.#cache.get(word);
    if (known !== undefined) {
      for (const id of known) out.push(id);
      return;
    }
    const ids = this.#merge(this.#symbols(word));
    for (const id of ids) out.push(id);
    if (word.length < CACHED_LENGTH) {
      if (this.#cache.size >= CACHED_WORDS) this.#cache.clear();
      this.#cache.set(word, ids);
    }
  }

  // One symbol per character; unknown ones become bytes, or the unknown token, or nothing (Rust drops them too).
  #symbols(word: string): number[] {
    const ids: number[] = [];
    let pendingUnk = false;
    for (let i = 0; i < word.length;) {
      let s = String.fromCodePoint(word.codePointAt(i) as number);
      const first = i === 0;
      i += s.length;
      if (!first) s = this.#prefix + s;
      if (i >= word.length) s += this.#suffix;
      const id = this.vocab.get(s);
      if (id !== undefined) {
        if (pendingUnk) ids.push(this.#unkId as number);
        pendingUnk = false;
        ids.push(id);
        continue;
      }
      if (this.#byteIds !== null) {
        const bytes = Array.from(utf8(s), (b) => this.#byteIds?.[b]);
        if (bytes.every((b) => b !== undefined)) {
          for (const b of bytes) ids.push(b);
          continue;
        }
      }
      if (this.#unkId !== null) {
        if (pendingUnk && !this.#fuseUnk) ids.push(this.#unkId);
        pendingUnk = true;
      }
    }
    if (pendingUnk) ids.push(this.#unkId as number);
    return ids;
  }

  #merge(ids: number[]): readonly number[] {
    const n = ids.length;
    if (n < 2) return ids;
    const next = Int32Array.from({ length: n }, (_, i) => (i + 1 < n ? i + 1 : -1));
    const previous = Int32Array.from({ length: n }, (_, i) => i - 1);
    const dead = new Uint8Array(n);
    const heap = new MinHeap();
    const offer = (left: number): void => {
      const right = left < 0 ? -1 : (next[left] as number);
      if (right < 0) return;
      const rank = this.#rankOfPair.get((ids[left] as number) * this.#stride + (ids[right] as number));
      if (rank !== undefined) heap.push(rank * POSITIONS + left);
    };
    for (let i = 0; i + 1 < n; i++) offer(i);
    for (let key = heap.pop(); key !== undefined; key = heap.pop()) {
      const left = key % POSITIONS;
      const merged = this.#mergedId[(key - left) / POSITIONS] as number;
      const right = next[left] as number;
      if (dead[left] === 1 || right < 0) continue;
      const rank = this.#rankOfPair.get((ids[left] as number) * this.#stride + (ids[right] as number));
      if (rank === undefined || this.#mergedId[rank] !== merged) continue; // the pair changed since it was offered
      ids[left] = merged;
      dead[right] = 1;
      const after = next[right] as number;
      next[left] = after;
      if (after >= 0) previous[after] = left;
      offer(previous[left] as number);
      offer(left);
    }
    return ids.filter((_, i) => dead[i] === 0);
  }
}

class MinHeap {
  readonly #keys: number[] = [];

  push(key: number): void {
    const keys = this.#keys;
    let i = keys.length;
    keys.push(key);
    while (i > 0) {
      const parent = (i - 1) >> 1;
      const above = keys[parent] as number;
      if (above <= key) break;
      keys[i] = above;
      i = parent;
    }
    keys[i] = key;
  }

  pop(): number | undefined {
    const keys = this.#keys;
    const top = keys[0];
    const last = keys.pop();
    if (keys.length === 0 || last === undefined) return top;
    let i = 0;
    for (;;) {
      let child = 2 * i + 1;
      if (child >= keys.length) break;
      if (child + 1 < keys.length && (keys[child + 1] as number) < (keys[child] as number)) child++;
      const below = keys[child] as number;
      if (below >= last) break;
      keys[i] = below;
      i = child;
    }
    keys[i] = last;
    return top;
  }
}

function maxima(ids: Iterable<number>): [number] {
  let max = 0;
  for (const id of ids) if (id > max) max = id;
  return [max];
}
