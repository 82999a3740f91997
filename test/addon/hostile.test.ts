// No JavaScript can crash the process through the addon: handles made by hand, user code that runs while arguments are collected,
// disposal at every moment, sizes beyond reason, shared and resizable arrays, files that shrink while they are mapped, a system
// that grants no threads. Every scene of scenes.cjs runs in a process of its own and must reach its end.
// No GPU. Alone: npx vitest run test/addon/hostile.test.ts

import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";

const scenes = fileURLToPath(new URL("scenes.cjs", import.meta.url));
const sanitized = process.env.LD_PRELOAD !== undefined; // address space limits do not go with a sanitizer's shadow memory

function play(scene: string, ...more: string[]): string[] {
  const { status, signal, stdout, stderr } = spawnSync(process.execPath, ["--expose-gc", scenes, scene, ...more], { encoding: "utf8" });
  expect({ scene, status, signal, stderr }).toEqual({ scene, status: 0, signal: null, stderr: "" });
  const lines = stdout.trim().split("\n");
  expect(lines.pop()).toBe("end");
  return lines;
}
// What an attempt gives: "status 1" bad argument, 2 no memory, 4 device fault, 100 disposed; the name of an error of V8; "done".

describe("the addon", () => {
  it("takes nobody else's objects for its own", () => {
    const lines = play("identity");
    expect(lines.slice(0, 6)).toEqual([0, 1, 2].flatMap(() => ["status 100 status 100", "status 100 status 100 done"]));
    expect(lines.slice(6, -5)).toEqual(Array.from({ length: 8 }, () => ["TypeError TypeError TypeError", "status 1 status 1"]).flat());
    expect(lines.slice(-5)).toEqual([
      "TypeError TypeError status 1",
      "status 1",
      "status 1",
      "status 1",
      "TypeError TypeError TypeError TypeError done",
    ]);
  });

  it("refuses recordings and copies that make no sense, and ends those that were abandoned", () => {
    const recordings = ["status 1 status 1 done status 1", "status 1 done TypeError status 100", "status 100 done", "status 100 done status 100"]; // prettier-ignore
    const library = process.env["ESFT_CUDA_LIBRARY"] ?? fileURLToPath(new URL("../../build/Release/libesft_cuda_emu.so", import.meta.url));
    const cuda = existsSync(library) && !sanitized;
    expect(play("graphs", ...(cuda ? [library] : []))).toEqual([
      "done status 1 status 1 status 1 status 1 done status 1 status 1",
      "status 100",
      "status 100 status 100",
      ...(cuda ? [...recordings, ...recordings] : recordings),
    ]);
  });

  it("checks what arguments stand for after all of them were read", () => {
    expect(play("reentrancy")).toEqual([
      ...["status 100", "status 100", "done", "status 100", "status 100"].map((x) => `device ${x}`),
      ...["done", "done", "status 100", "status 100", "status 100"].map((x) => `tensor ${x}`),
      ...["done", "status 100", "done", "status 100", "status 100"].map((x) => `file ${x}`),
      "done done RangeError done status 100",
      "done",
      "status 1",
      "status 1",
      "synchronized",
    ]);
  });

  it("says disposed for whatever outlives its device", () => {
    expect(play("lifetime")).toEqual([
      "true",
      "status 100 status 100 status 100 status 100",
      "status 100 status 100",
      "done false true",
      "status 1 done done",
      "0",
    ]);
  });

  it("keeps memory alive for queued jobs when its handles are collected", () => {
    expect(play("collection")).toEqual(["4194304", "5976 of 5976 known"]);
  });

  it("refuses numbers, shapes and strides that mean nothing", () => {
    const lines = play("numbers");
    expect(lines.slice(0, 4)).toEqual(["1", "done done done status 1", "1099511627776 status 2", "70368744177664 status 2"]);
    expect(lines.slice(4).filter((l) => /x|^\d{15}/.test(l))).toEqual(
      ["140737488355328", "4503599627370496", "1073741824x1073741824", "0x1125899906842624", "67108864x67108864x0"].map(
        (s) => `${s} status 1`,
      ),
    );
    expect(lines.slice(-2)).toEqual(["status 1 status 1 status 1", "status 1 status 1 status 1 status 1 status 1 status 1 status 1"]);
  });

  it("moves tensors without elements", () => {
    expect(play("empty")).toEqual(["0 0", "0 0", "0 0", "0 0", "0 4"]);
  });

  it("reads shared, resizable and detached arrays for what they are", () => {
    expect(play("arrays")).toEqual([
      "done 3,3,3,3",
      "done 2,2,2,2",
      "status 1 status 1 status 1 done",
      "status 1 done 5,5,5,5",
      "status 1 status 1 status 1 status 1 status 1",
      "done done done done",
    ]);
  });

  it("reports a mapped file that shrinks instead of touching its lost pages", () => {
    expect(play("files")).toEqual([
      "status 1 status 1 status 1 status 1 status 1",
      "status 100 256",
      "status 4: true",
      "status 4",
      "status 4",
      "1",
      ...Array.from({ length: 8 }, (_, i) => (i < 2 ? "status 4" : "status 1")), // no path, no file; then what is none, or no file
    ]);
  });

  it.skipIf(sanitized)("refuses to read more than an array can hold", () => {
    expect(play("huge")).toEqual(["status 2", "synchronized"]);
  });

  it.skipIf(sanitized || process.platform !== "linux")("opens no device when the system grants no threads", () => {
    const command = `ulimit -v 6000000; exec ${JSON.stringify(process.execPath)} ${JSON.stringify(scenes)} threads`;
    const { status, signal, stdout } = spawnSync("bash", ["-c", command], { encoding: "utf8" });
    expect({ status, signal, stdout }).toEqual({ status: 0, signal: null, stdout: "status 4 status 1\n8\nend\n" });
  });
});
