// Memory that is not the device's own: a mapped file is no operand on "cuda", alone or in a list, and its bytes are copied there instead.
// Alone: npx vitest run test/cuda/mapped.test.ts

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { KernelError } from "../../lib/errors.ts";
import * as ops from "../../lib/ops.ts";
import { MappedFile } from "../../lib/tensor.ts";
import { tempDir } from "../support/fixture.ts";
import { closeCuda, cudaDevice, cudaLibrary, withCuda } from "./support.ts";

afterAll(closeCuda);

withCuda("a mapped file on cuda", () => {
  const folder = tempDir();

  it.skipIf(cudaLibrary === "ref")("is refused as a tensor and copied instead", async () => {
    const d = cudaDevice()!;
    const path = join(folder, "numbers");
    writeFileSync(path, Float32Array.of(3, 4, 12));
    const file = new MappedFile(path);
    expect(() => d.mapped(file, 0, "f32", [3])).toThrow(KernelError);
    expect(() => d.mapped(file, 0, "f32", [3])).toThrow(/^map: device must be one that computes in host memory, received .*copyFromMap/);
    const own = d.empty("f32", [3]);
    own.copyFromMap(file, 0);
    const norm = d.empty("f64", [1]);
    ops.gradNorm(d, { grads: d.list([own]), norm });
    expect((await norm.readF64())[0]).toBeCloseTo(13, 5);
    file.dispose();
  });
});
