// A model opened on the device "cuda": weights in device memory at equal distances, progress and abort while they travel, precision,
// a non-finite router told as what it is, files that shrink. Alone: npx vitest run test/cuda/load.test.ts

import { cp, open as openFile, truncate } from "node:fs/promises";
import { join } from "node:path";
import { expect, it } from "vitest";
import { openSafetensors } from "../../lib/files/safetensors.ts";
import { Dataset } from "../../lib/data/dataset.ts";
import { Device, MappedFile } from "../../lib/tensor.ts";
import { toyRows } from "../support/tiny_model.ts";
import { open, patience, tinyCheckpoint, withCudaModel } from "./model.ts";

withCudaModel("a model on cuda", () => {
  const at = tinyCheckpoint();

  it("has its weights in device memory, reports progress, and stops when asked", async () => {
    const seen: { phase: string; done: number; total: number }[] = [];
    await using model = await open(at("model"), { onProgress: (p) => seen.push(p) });
    const loads = seen.filter((p) => p.phase === "load weights");
    expect(loads.at(-1)!.done).toBe(loads.at(-1)!.total);
    expect(model.device.info).toMatchObject({ backend: "cuda", hostMemory: false, activationDtype: "bf16", graphs: true });
    expect(model.deviceReason).toBeNull();
    expect(model.transformer.precision).toBe("bf16");
    await expect(open(at("model"), { signal: AbortSignal.abort() })).rejects.toMatchObject({ code: "ERR_ABORTED" });
    const stop = new AbortController();
    const late = open(at("model"), { signal: stop.signal, onProgress: () => stop.abort() });
    await expect(late).rejects.toMatchObject({ code: "ERR_ABORTED" });
  });

  it("computes in bf16 only, and auto with precision f32 is the CPU", async () => {
    await expect(open(at("model"), { precision: "f32" })).rejects.toMatchObject({ code: "ERR_CONFIG", where: { key: "precision" } });
    await using model = await open(at("model"), { device: "auto", precision: "f32" });
    expect(model.device.info.backend).toBe("cpu");
  });

  it(
    "evaluates like the CPU, within bf16",
    async () => {
      await using model = await open(at("model"));
      await using cpu = await open(at("model"), { device: "cpu" });
      const rows = Dataset.fromRows(toyRows(8));
      const [a, b] = [await model.evaluate(rows, { maxLength: 64 }), await cpu.evaluate(rows, { maxLength: 64 })];
      expect(Math.abs(a.loss / b.loss - 1)).toBeLessThan(1e-2);
      const profile = await model.profile(rows, { tokens: 100, data: { maxLength: 64 } });
      expect(profile.tokens).toBeGreaterThanOrEqual(100);
    },
    patience,
  );

  it(
    "says that weights are not finite when a router meets them",
    async () => {
      await cp(at("model"), at("nan"), { recursive: true });
      const name = "model.layers.0.self_attn.o_proj.weight";
      const { begin } = (await openSafetensors(join(at("nan"), "model.safetensors"))).tensors.get(name)!;
      const file = await openFile(join(at("nan"), "model.safetensors"), "r+");
      await file.write(Uint8Array.of(0xc0, 0x7f), 0, 2, begin + 2 * 17);
      await file.close();
      await expect(open(at("nan"))).rejects.toMatchObject({ code: "ERR_NON_FINITE", where: { tensor: name, element: 17 } });
      await using model = await open(at("nan"), { checkWeights: false });
      const rows = Dataset.fromRows(toyRows(4));
      await expect(model.evaluate(rows, { maxLength: 64 })).rejects.toMatchObject({
        code: "ERR_NON_FINITE",
        message: expect.stringMatching(/checkWeights/) as string,
      });
    },
    patience,
  );

  it("reports a file that shrank before it was copied, and refuses mapped operands", async () => {
    await cp(join(at("model"), "model.safetensors"), at("short"));
    using device = new Device({ kind: "cuda" });
    using file = new MappedFile(at("short"));
    using t = device.empty("u8", [1000]);
    t.copyFromMap(file, 8);
    const bytes = new Uint8Array(await t.readBytes());
    expect(bytes.some((x) => x !== 0)).toBe(true);
    expect(() => t.copyFromMap(file, file.bytes - 999)).toThrow(/copyFromMap: byteOffset must be inside the file/);
    await truncate(at("short"), 100);
    t.copyFromMap(file, 8);
    await expect(device.synchronize()).rejects.toMatchObject({
      code: "ERR_KERNEL",
      message: expect.stringMatching(/shrank from \d+ to 100 bytes/) as string,
    });
    expect(new Uint8Array(await t.readBytes())).toEqual(bytes);
  });
});
