// safetensors reader against hand-made hostile bytes. No GPU.
// Run alone: npx vitest run test/files/safetensors.test.ts
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { EsftError, IoError, LayoutError } from "../../lib/errors.ts";
import { DTYPE_BITS, openSafetensors, parseSafetensorsHeader } from "../../lib/files/safetensors.ts";
import { rawSafetensors, tempDir } from "../support/fixture.ts";

const dir = tempDir();
let count = 0;
function file(bytes: Uint8Array): string {
  const path = join(dir, `${count++}.safetensors`);
  writeFileSync(path, bytes);
  return path;
}
const f32 = (shape: unknown, offsets: unknown, dtype: unknown = "F32") => ({ dtype, shape, data_offsets: offsets });

describe("openSafetensors", () => {
  const dtypes = Object.keys(DTYPE_BITS).join(", ");
  const hostile: [string, Uint8Array, string][] = [
    ["empty file", Buffer.alloc(0), "expected at least the 8 bytes of the header length, found 0 bytes"],
    ["cut in the length", Buffer.alloc(5), "expected at least the 8 bytes of the header length, found 5 bytes"],
    [
      "header cut",
      rawSafetensors({ a: f32([1], [0, 4]) }, 4).subarray(0, 20),
      "expected a header of 54 bytes, found only 12 bytes after its length",
    ],
    [
      "huge header length",
      Buffer.from([255, 255, 255, 255, 255, 255, 255, 255, 123]),
      "expected a header of at most 100000000 bytes, found a length of 18446744073709551615",
    ],
    [
      "header length above the cap",
      Buffer.from([0, 225, 245, 6, 0, 0, 0, 0, 123]),
      "expected a header of at most 100000000 bytes, found a length of 116777216",
    ],
    ["no header", rawSafetensors(""), 'expected a JSON header, found: the first byte must be "{", it is missing'],
    ["not JSON", rawSafetensors("{nope}"), "expected a JSON header, found: "],
    ["header is an array", rawSafetensors("[1]"), 'expected a JSON header, found: the first byte must be "{", it is 91'],
    ["byte order mark", rawSafetensors("\ufeff{}"), 'expected a JSON header, found: the first byte must be "{", it is 239'],
    [
      "invalid UTF-8",
      rawSafetensors("").fill(0, 8) && Buffer.concat([Buffer.from([4, 0, 0, 0, 0, 0, 0, 0]), Buffer.from([123, 34, 255, 125])]),
      "expected a JSON header, found: ",
    ],
    [
      "deep nesting",
      rawSafetensors(`{"a":${"[".repeat(10_000)}${"]".repeat(10_000)}}`),
      "expected a JSON header, found: nesting deeper than 3",
    ],
    [
      "duplicate tensor",
      rawSafetensors(`{"a":${JSON.stringify(f32([1], [0, 4]))},"\\u0061":${JSON.stringify(f32([1], [0, 4]))}}`, 4),
      'expected a JSON header, found: duplicate key "a"',
    ],
    [
      "duplicate field",
      rawSafetensors(`{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 4),
      'expected a JSON header, found: duplicate key "dtype"',
    ],
    [
      "metadata not strings",
      rawSafetensors({ __metadata__: { n: 3 } }),
      '"__metadata__": expected a string under "n", found a value of type number',
    ],
    ["metadata an array", rawSafetensors({ __metadata__: ["x"] }), '"__metadata__": expected an object of strings, found an array'],
    ["tensor null", rawSafetensors({ a: null }), 'tensor "a": expected an object with dtype, shape and data_offsets, found null'],
    [
      "unknown field",
      rawSafetensors({ a: { ...f32([1], [0, 4]), extra: 1 } }, 4),
      'tensor "a": expected only dtype, shape and data_offsets, found "extra"',
    ],
    ["unknown dtype", rawSafetensors({ a: f32([1], [0, 4], "F128") }, 4), `tensor "a": expected a dtype among ${dtypes}, found "F128"`],
    [
      "inherited dtype",
      rawSafetensors({ a: f32([1], [0, 4], "constructor") }, 4),
      `tensor "a": expected a dtype among ${dtypes}, found "constructor"`,
    ],
    ["negative size", rawSafetensors({ a: f32([-1], [0, 4]) }, 4), 'tensor "a": expected a shape of non-negative integers, found [-1]'],
    ["fractional size", rawSafetensors({ a: f32([1.5], [0, 6]) }, 6), 'tensor "a": expected a shape of non-negative integers, found [1.5]'],
    [
      "size beyond exact integers",
      rawSafetensors(`{"a":{"dtype":"F32","shape":[9007199254740993],"data_offsets":[0,4]}}`, 4),
      'tensor "a": expected a shape of non-negative integers, found [9007199254740992]',
    ],
    [
      "infinite size",
      rawSafetensors(`{"a":{"dtype":"F32","shape":[1e999],"data_offsets":[0,4]}}`, 4),
      'tensor "a": expected a shape of non-negative integers, found [null]',
    ],
    [
      "overflowing product",
      rawSafetensors({ a: f32([2 ** 40, 2 ** 40], [0, 4]) }, 4),
      'tensor "a": expected a shape whose F32 elements fill whole bytes and can be counted exactly, found [1099511627776,1099511627776]',
    ],
    [
      "product that wraps to the truth",
      rawSafetensors({ a: f32([2 ** 32, 2 ** 32, 1], [0, 0]) }),
      'tensor "a": expected a shape whose F32 elements fill whole bytes and can be counted exactly, found [4294967296,4294967296,1]',
    ],
    [
      "huge rank",
      rawSafetensors(
        {
          a: f32(
            Array.from({ length: 40 }, () => 1),
            [0, 4],
          ),
        },
        4,
      ),
      'tensor "a": expected at most 32 dimensions, found 40',
    ],
    [
      "one offset",
      rawSafetensors({ a: f32([1], [0]) }, 4),
      'tensor "a": expected data_offsets [begin, end] of non-negative integers, found [0]',
    ],
    [
      "negative offset",
      rawSafetensors({ a: f32([1], [-4, 0]) }, 4),
      'tensor "a": expected data_offsets [begin, end] of non-negative integers, found [-4,0]',
    ],
    ["reversed offsets", rawSafetensors({ a: f32([1], [4, 0]) }, 4), 'tensor "a": expected data_offsets with begin <= end, found [4, 0]'],
    [
      "out of the file",
      rawSafetensors({ a: f32([2], [0, 8]) }, 4),
      'tensor "a": expected data within the 4 data bytes of the file, found data_offsets [0, 8]',
    ],
    ["lying length", rawSafetensors({ a: f32([2], [0, 4]) }, 4), 'tensor "a": expected 8 bytes for F32 [2], found data_offsets of 4 bytes'],
    [
      "overlap",
      rawSafetensors({ a: f32([2], [0, 8]), b: f32([1], [4, 8]) }, 8),
      'tensor "b": expected data after that of "a", which ends at 8, found data_offsets [4, 8]; the two overlap',
    ],
    [
      "same range twice",
      rawSafetensors({ a: f32([1], [0, 4]), b: f32([1], [0, 4]) }, 4),
      'tensor "b": expected data after that of "a", which ends at 4, found data_offsets [0, 4]; the two overlap',
    ],
    [
      "hole",
      rawSafetensors({ a: f32([1], [0, 4]), b: f32([1], [8, 12]) }, 12),
      'tensor "b": expected data to begin at 4, found data_offsets [8, 12]; bytes in between belong to no tensor',
    ],
    ["hole at the front", rawSafetensors({ a: f32([1], [4, 8]) }, 8), 'tensor "a": expected data to begin at 0, found data_offsets [4, 8]'],
    [
      "trailing bytes",
      rawSafetensors({ a: f32([1], [0, 4]) }, 5),
      "expected the data to end with the last tensor at byte 66, found 1 trailing bytes",
    ],
    ["data without tensors", rawSafetensors({}, 5), "expected the data to end with the last tensor at byte 10, found 5 trailing bytes"],
    [
      "half bytes",
      rawSafetensors({ a: f32([3], [0, 2], "F4") }, 2),
      'tensor "a": expected a shape whose F4 elements fill whole bytes and can be counted exactly, found [3]',
    ],
    ["no header of a file that ends there", Buffer.alloc(8), 'expected a JSON header, found: the first byte must be "{", it is missing'],
    ["header cut by one byte", rawSafetensors("{}").subarray(0, 9), "expected a header of 2 bytes, found only 1 bytes after its length"],
    ["metadata null", rawSafetensors({ __metadata__: null }), '"__metadata__": expected an object of strings, found null'],
    ["metadata text", rawSafetensors({ __metadata__: "x" }), '"__metadata__": expected an object of strings, found a value of type string'],
    [
      "metadata with a list",
      rawSafetensors({ __metadata__: { a: "", b: [] } }),
      '"__metadata__": expected a string under "b", found an array',
    ],
    ["tensor a list", rawSafetensors({ a: [] }), 'tensor "a": expected an object with dtype, shape and data_offsets, found an array'],
    [
      "tensor a number",
      rawSafetensors({ a: 1 }),
      'tensor "a": expected an object with dtype, shape and data_offsets, found a value of type number',
    ],
    ["dtype a list", rawSafetensors({ a: f32([1], [0, 4], ["F32"]) }, 4), `tensor "a": expected a dtype among ${dtypes}, found ["F32"]`],
    [
      "no shape",
      rawSafetensors({ a: f32(undefined, [0, 4]) }, 4),
      'tensor "a": expected a shape of non-negative integers, found undefined',
    ],
    ["shape a number", rawSafetensors({ a: f32(1, [0, 4]) }, 4), 'tensor "a": expected a shape of non-negative integers, found 1'],
    [
      "no offsets",
      rawSafetensors({ a: f32([1], undefined) }, 4),
      'tensor "a": expected data_offsets [begin, end] of non-negative integers, found undefined',
    ],
    [
      "offsets as text",
      rawSafetensors({ a: f32([2], "08") }, 8),
      'tensor "a": expected data_offsets [begin, end] of non-negative integers, found "08"',
    ],
    [
      "three offsets",
      rawSafetensors({ a: f32([1], [0, 4, 4]) }, 4),
      'tensor "a": expected data_offsets [begin, end] of non-negative integers, found [0,4,4]',
    ],
    [
      "an end of half a byte",
      rawSafetensors({ a: f32([1], [0, 4.5]) }, 5),
      'tensor "a": expected data_offsets [begin, end] of non-negative integers, found [0,4.5]',
    ],
    ["a name that is no UTF-8", rawSafetensors({ "?": f32([0], [0, 0]) }).fill(255, 10, 11), "expected a JSON header, found: "],
    [
      "too long a range, not the first",
      rawSafetensors({ a: f32([1], [0, 4]), b: f32([2], [4, 8]) }, 8),
      'tensor "b": expected 8 bytes for F32 [2], found data_offsets of 4 bytes',
    ],
    [
      "too short a range",
      rawSafetensors({ a: f32([1], [0, 8]) }, 8),
      'tensor "a": expected 4 bytes for F32 [1], found data_offsets of 8 bytes',
    ],
  ];
  it.each(hostile)("refuses: %s", async (_, bytes, message) => {
    const path = file(bytes);
    const error = await openSafetensors(path).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(LayoutError);
    expect((error as Error).message.slice(0, path.length + 2 + message.length)).toBe(`${path}: ${message}`);
  });

  it("refuses missing files and folders with typed errors", async () => {
    await expect(openSafetensors(join(dir, "absent"))).rejects.toThrow(IoError);
    mkdirSync(join(dir, `folder${count}`));
    await expect(openSafetensors(join(dir, `folder${count++}`))).rejects.toThrow(IoError);
  });

  it("survives any mutation of a valid header: it opens or gives a LayoutError", async () => {
    const good = rawSafetensors(
      { __metadata__: { format: "pt" }, "x.weight": f32([2, 3], [0, 24]), y: f32([4], [24, 32], "BF16"), z: f32([], [32, 33], "U8") },
      33,
    );
    const headerEnd = good.length - 33;
    let seed = 7;
    const random = (n: number) => ((seed = (Math.imul(seed, 1103515245) + 12345) >>> 0) >>> 8) % n;
    let opened = 0;
    for (let round = 0; round < 3000; round++) {
      let bytes = Buffer.from(good);
      for (let k = random(4) + 1; k > 0; k--) {
        const at = random(headerEnd);
        const how = random(5);
        if (how === 0) bytes[at] = random(256);
        else if (how === 1) bytes[at] = '0123456789-.e"[]{},:'.charCodeAt(random(20));
        else if (how === 2) bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + random(9))]);
        else if (how === 3)
          bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(random(bytes.length), random(bytes.length)), bytes.subarray(at)]);
        else bytes = bytes.subarray(0, random(bytes.length + 1));
        if (bytes.length === 0) bytes = Buffer.alloc(1);
      }
      // Parse the mutated header directly (length taken from the file) and, now and then, through a real file.
      const claimed = bytes.length >= 8 ? Number(bytes.readBigUInt64LE(0)) : 0;
      try {
        parseSafetensorsHeader(bytes.subarray(8, 8 + Math.min(claimed, bytes.length)), { path: "fuzz", size: bytes.length });
        opened++;
      } catch (error) {
        expect(error).toBeInstanceOf(LayoutError);
      }
      if (round % 10 === 0) {
        const error = await openSafetensors(file(bytes)).catch((e: unknown) => e);
        if (error instanceof Error) expect(error).toBeInstanceOf(EsftError);
      }
    }
    expect(opened).toBeGreaterThan(0);
  });
});
