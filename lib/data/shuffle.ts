// Our own generator for data order: xoshiro128** seeded by splitmix32 (Blackman and Vigna 2018).
// Not Math.random: the order must be the same on every machine and after every resume.

export class ShuffleRandom {
  readonly #s = new Uint32Array(4);

  /**
   * Streams of different `(seed, stream)` are independent: one stream per epoch. The words are never all zero, where xoshiro would
   * stay: the first two come from different x, and the steps from x to a word can be undone.
   */
  constructor(seed: number, stream = 0) {
    let x = (Math.trunc(seed) ^ Math.imul(stream + 1, 0x9e3779b9)) >>> 0;
    const high = Math.floor(Math.abs(seed) / 2 ** 32) >>> 0;
    for (let i = 0; i < 4; i++) {
      x = (x + 0x9e3779b9 + (i === 2 ? high : 0)) >>> 0;
      let z = x;
      z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
      z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
      this.#s[i] = z ^ (z >>> 15);
    }
  }

  nextUint32(): number {
    const s = this.#s;
    const [a = 0, b = 0, c = 0, d = 0] = s;
    const times5 = Math.imul(b, 5);
    const result = Math.imul((times5 << 7) | (times5 >>> 25), 9) >>> 0;
    const c1 = c ^ a;
    const d1 = d ^ b;
    s[1] = b ^ c1;
    s[0] = a ^ d1;
    s[2] = c1 ^ (b << 9);
    s[3] = (d1 << 11) | (d1 >>> 21);
    return result;
  }

  /** A uniform integer in [0, n), without modulo bias. */
  below(n: number): number {
    const limit = 2 ** 32 - (2 ** 32 % n);
    for (;;) {
      const x = this.nextUint32();
      if (x < limit) return x % n;
    }
  }
}

/** Fisher-Yates: the indices 0..n-1 in an order fixed by (seed, epoch). */
export function shuffledIndices(n: number, seed: number, epoch: number): Uint32Array {
  const order = Uint32Array.from({ length: n }, (_, i) => i);
  const random = new ShuffleRandom(seed, epoch);
  for (let i = n - 1; i > 0; i--) {
    const j = random.below(i + 1);
    const kept = order[i] as number;
    order[i] = order[j] as number;
    order[j] = kept;
  }
  return order;
}
