// Numbers for fuzzing: a stream of its own for every (seed, format, case, step), so that one step can be left out and the others stay.

/** FNV-1a over the parts' text. */
function hash(parts: readonly (string | number)[]): number {
  let h = 0x811c9dc5;
  for (const char of parts.join("\0")) h = Math.imul(h ^ char.codePointAt(0)!, 0x01000193);
  return h >>> 0;
}

export class Random {
  #state: number;

  constructor(...parts: readonly (string | number)[]) {
    this.#state = hash(parts);
  }

  /** A 32-bit integer (mulberry32). */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(this.#state ^ (this.#state >>> 15), this.#state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (t ^ (t >>> 14)) >>> 0;
  }
  /** 0 … n−1. */
  below(n: number): number {
    return this.next() % n;
  }
  /** True once in n times. */
  once(n: number): boolean {
    return this.below(n) === 0;
  }
  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)]!;
  }
}
