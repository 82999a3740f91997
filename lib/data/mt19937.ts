// Python's random.Random(seed).random(): MT19937 seeded by init_by_array, 53-bit floats.
// Source of the recurrence and constants: Matsumoto and Nishimura 1998, mt19937ar.

const N = 624;
const M = 397;

export class PythonRandom {
  readonly #state = new Uint32Array(N);
  #index = N;

  /** `seed`: an integer, as random.seed(int) takes it (its absolute value counts). */
  constructor(seed: number | bigint) {
    let rest = typeof seed === "bigint" ? seed : BigInt(Math.trunc(seed));
    if (rest < 0n) rest = -rest;
    const key: number[] = [];
    do {
      key.push(Number(rest & 0xffffffffn));
      rest >>= 32n;
    } while (rest > 0n);
    this.#seedByArray(key);
  }

  #seedByArray(key: readonly number[]): void {
    const s = this.#state;
    s[0] = 19650218;
    for (let i = 1; i < N; i++) s[i] = Math.imul(1812433253, at(s, i - 1) ^ (at(s, i - 1) >>> 30)) + i;
    let i = 1;
    let j = 0;
    for (let k = Math.max(N, key.length); k > 0; k--) {
      s[i] = (at(s, i) ^ Math.imul(at(s, i - 1) ^ (at(s, i - 1) >>> 30), 1664525)) + (key[j] ?? 0) + j;
      if (++i >= N) {
        s[0] = at(s, N - 1);
        i = 1;
      }
      if (++j >= key.length) j = 0;
    }
    for (let k = N - 1; k > 0; k--) {
      s[i] = (at(s, i) ^ Math.imul(at(s, i - 1) ^ (at(s, i - 1) >>> 30), 1566083941)) - i;
      if (++i >= N) {
        s[0] = at(s, N - 1);
        i = 1;
      }
    }
    s[0] = 0x80000000;
  }

  #next(): number {
    const s = this.#state;
    if (this.#index >= N) {
      for (let k = 0; k < N; k++) {
        const y = (at(s, k) & 0x80000000) | (at(s, (k + 1) % N) & 0x7fffffff);
        s[k] = at(s, (k + M) % N) ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
      }
      this.#index = 0;
    }
    let y = at(s, this.#index++);
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  /** A float in [0, 1) with 53 bits, in Python's order of draws. */
  random(): number {
    const a = this.#next() >>> 5;
    const b = this.#next() >>> 6;
    return (a * 67108864 + b) / 9007199254740992;
  }
}

function at(state: Uint32Array, i: number): number {
  return state[i] as number;
}
