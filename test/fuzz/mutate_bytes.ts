// Changes to bytes, whatever they mean: flips, cuts, insertions, repetitions, other encodings.

import type { Random } from "./random.ts";

const INSERTS: readonly Uint8Array[] = [
  [0xef, 0xbb, 0xbf], [0xff], [0xc0, 0x80], [0xed, 0xa0, 0x80], [0], [0x0a], [0x0d, 0x0a], [0x22], [0x7b], [0x7d], [0x5b], [0x5d], [0x2c], [0x3a], [0x09], [0x20], [0x5c], [0x1b], [0xe2, 0x80, 0xa8],
].map((b) => Uint8Array.from(b)); // prettier-ignore

/** One change. */
export function changeBytes(bytes: Uint8Array, r: Random): { readonly bytes: Uint8Array; readonly what: string } {
  const at = r.below(bytes.length + 1);
  const to = Math.min(bytes.length, at + 1 + r.below(1 << r.below(8)));
  const spliced = (begin: number, end: number, ...middle: readonly Uint8Array[]): Uint8Array =>
    Buffer.concat([bytes.subarray(0, begin), ...middle, bytes.subarray(end)]);
  switch (r.below(8)) {
    case 0:
    case 1: {
      if (at >= bytes.length) break;
      const copy = Uint8Array.from(bytes);
      const bit = r.below(8);
      copy[at]! ^= 1 << bit;
      return { bytes: copy, what: `flips bit ${bit} of byte ${at}` };
    }
    case 2:
      return { bytes: bytes.subarray(0, at), what: `cuts after byte ${at}` };
    case 3:
      return { bytes: spliced(at, to), what: `deletes bytes ${at} to ${to}` };
    case 4: {
      const more = r.pick(INSERTS);
      return { bytes: spliced(at, at, more), what: `inserts ${Buffer.from(more).toString("hex")} at ${at}` };
    }
    case 5:
      return {
        bytes: spliced(at, at, ...Array.from({ length: 1 << r.below(10) }, () => bytes.subarray(at, to))),
        what: `repeats bytes ${at} to ${to}`,
      };
    case 6: {
      if (at >= bytes.length) break;
      const copy = Uint8Array.from(bytes);
      const value = r.pick([0, 255, 127, 128, 32, 10, 34, 44, 48, 57]);
      copy[at] = value;
      return { bytes: copy, what: `sets byte ${at} to ${value}` };
    }
    default:
  }
  const from = r.below(bytes.length + 1);
  return { bytes: spliced(at, at, bytes.subarray(from, from + 1 + r.below(64))), what: `copies bytes from ${from} to ${at}` };
}
