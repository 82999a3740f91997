// scripts/check-includes.ts: the sources keep its rules, and each kind of wrong include is found.
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import { readSources, rooms, violations } from "../../scripts/check-includes.ts";

const root = path.resolve(import.meta.dirname, "../..");
const sources = readSources(root);

/** What the rules say of our sources with these files beside or in place of them. */
const withFiles = (files: Record<string, string>): string[] => violations(new Map([...sources, ...Object.entries(files)]));

test("csrc keeps the rules, and every room of the table is there", () => {
  expect(violations(sources)).toEqual([]);
  const folders = new Set([...sources.keys()].map((file) => path.posix.dirname(file)));
  expect(rooms.map(({ at }) => at).filter((at) => !folders.has(at))).toEqual([]);
});

describe("a planted include is found", () => {
  const cases: [what: string, file: string, text: string, line: string][] = [
    ["up an area", "core/x.h", '#include "../ops/gemm.h"', "csrc/core/x.h:1 includes ../ops/gemm.h: core may use no other room"],
    ["ops of a device", "ops/x.cc", '\n#include "../cpu/simd.h"', "csrc/ops/x.cc:2 includes ../cpu/simd.h: ops may use core"],
    [
      "across devices",
      "cpu/gemm/x.cc",
      '#include "../../cuda/types.cuh"',
      "csrc/cpu/gemm/x.cc:1 includes ../../cuda/types.cuh: cpu/gemm may use core, ops, cpu, cpu/rows",
    ],
    [
      "up a room",
      "cpu/rows/x.cc",
      '#include "../gemm/gemm_pack.h"',
      "csrc/cpu/rows/x.cc:1 includes ../gemm/gemm_pack.h: cpu/rows may use core, ops, cpu",
    ],
    [
      "up inside a room",
      "cpu/gemm/gemm_micro.h",
      '#pragma once\n  # include "gemm_engine.h"',
      "csrc/cpu/gemm/gemm_micro.h:2 includes gemm_engine.h: gemm_engine.h lies above it in the order of cpu/gemm",
    ],
    [
      "past a door",
      "addon/x.cc",
      '#include "../cpu/device/memory.h"',
      "csrc/addon/x.cc:1 includes ../cpu/device/memory.h: of cpu/device others may include backend.h alone",
    ],
    [
      "the emulation's inside",
      "cuda/host/x.cu",
      '#include "machine.h"',
      "csrc/cuda/host/x.cu:1 includes machine.h: of emu others may include emu.h, ptx_emu.h alone",
    ],
    ["N-API outside the addon", "core/x.cc", "#include <napi.h>", "csrc/core/x.cc:1 includes napi.h: only addon may see N-API"],
    [
      "CUDA outside csrc/cuda",
      "addon/x.cc",
      "#include <cuda_runtime.h>",
      "csrc/addon/x.cc:1 includes cuda_runtime.h: only cuda and emu may see CUDA",
    ],
    ["a file that is not there", "ops/x.cc", '#include "nothing.h"', "csrc/ops/x.cc:1 includes nothing.h: no such file"],
    ["a header without a place", "cuda/gemm/x.cuh", "", "csrc/cuda/gemm/x.cuh: not in the order of cuda/gemm in scripts/check-includes.ts"],
    ["a new room", "cpu/loss/x.cc", "", "csrc/cpu/loss/x.cc: its folder is not in the table of scripts/check-includes.ts"],
  ];
  test.each(cases)("%s", (_what, file, text, line) => expect(withFiles({ [file]: text })).toEqual([line]));
});

describe("the command", () => {
  let folder = "";
  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  test("prints the line and fails", () => {
    folder = mkdtempSync(path.join(os.tmpdir(), "esft-includes-"));
    mkdirSync(path.join(folder, "csrc/core"), { recursive: true });
    mkdirSync(path.join(folder, "csrc/ops"));
    writeFileSync(path.join(folder, "csrc/ops/checks.h"), "");
    writeFileSync(path.join(folder, "csrc/core/check.cc"), '#include "../ops/checks.h"\n');
    const { status, stdout } = spawnSync(process.execPath, ["--import", "tsx", "scripts/check-includes.ts", folder], {
      cwd: root,
      encoding: "utf8",
    });
    expect(stdout).toBe("csrc/core/check.cc:1 includes ../ops/checks.h: core may use no other room\n");
    expect(status).toBe(1);
  });
});
