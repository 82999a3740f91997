// The gate of the CUDA build must be able to fail: planted spills, stack frames and serialised wgmma.
import { describe, expect, it } from "vitest";
import { type Exception, findFaults, parsePtxasLog } from "../../scripts/ptxas-log.ts";

const kernel = (
  name: string,
  arch: string,
  stack: number,
  stores: number,
  loads: number,
  used = "Used 168 registers, used 3 barriers",
) => `\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '${name}' for '${arch}'
ptxas info    : Function properties for ${name}
    ${stack} bytes stack frame, ${stores} bytes spill stores, ${loads} bytes spill loads
ptxas info    : ${used}
ptxas info    : Compile time = 2.305 ms
`;
const serialised =
  "ptxas info    : (C7511) Potential Performance Loss: wgmma.mma_async instructions are serialized due to ill formed pipeline stage in the function '_Z1av'";

function faultsOf(text: string, allowed: readonly Exception[] = []): string[] {
  const { rows, remarks } = parsePtxasLog(text);
  return findFaults(
    rows.map((row) => ({ ...row, label: row.name })),
    remarks,
    allowed,
  );
}

describe("ptxas log", () => {
  it("reads one row per kernel and architecture", () => {
    const text =
      kernel("_Z1av", "sm_80", 0, 0, 0) +
      kernel("_Z1av", "sm_90a", 8, 4, 12, "Used 255 registers, used 1 barriers, 1024 bytes smem, 368 bytes cmem[0]");
    expect(parsePtxasLog(text)).toEqual({
      remarks: [],
      rows: [
        { name: "_Z1av", arch: "sm_80", entry: true, registers: 168, stack: 0, spillStores: 0, spillLoads: 0, shared: 0 },
        { name: "_Z1av", arch: "sm_90a", entry: true, registers: 255, stack: 8, spillStores: 4, spillLoads: 12, shared: 1024 },
      ],
    });
  });

  it("keeps functions that were not inlined, and gives the kernel its own registers", () => {
    const text = kernel("_Z1av", "sm_90a", 0, 0, 0).replace(
      "ptxas info    : Used",
      "ptxas info    : Function properties for _Z1bv\n    16 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\nptxas info    : Used",
    );
    const { rows } = parsePtxasLog(text);
    expect(rows.map((row) => [row.name, row.entry, row.registers, row.stack])).toEqual([
      ["_Z1av", true, 168, 0],
      ["_Z1bv", false, 0, 16],
    ]);
    expect(faultsOf(text)).toHaveLength(1);
  });

  it("has nothing against a clean build", () => {
    expect(faultsOf(kernel("_Z1av", "sm_80", 0, 0, 0) + kernel("_Z1av", "sm_90a", 0, 0, 0))).toEqual([]);
  });

  it.each([
    ["stack", kernel("_Z1av", "sm_90a", 16, 0, 0)],
    ["spill stores", kernel("_Z1av", "sm_90a", 0, 4, 0)],
    ["spill loads", kernel("_Z1av", "sm_90a", 0, 0, 4)],
  ])("finds planted %s", (_, text) => {
    expect(faultsOf(kernel("_Z1bv", "sm_80", 0, 0, 0) + text)).toEqual([expect.stringContaining("_Z1av (sm_90a)")]);
  });

  it.each([
    serialised,
    "ptxas info    : (C7508) Potential Performance Loss: 'setmaxnreg' ignored; unable to determine register count at entry.",
    "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to the presence of Function Calls",
    "ptxas warning : (C7519) something",
    'a.cu(3): warning #177-D: variable "x" was declared but never referenced',
  ])("finds a remark: %s", (line) => {
    expect(faultsOf(`${line}\n${kernel("_Z1av", "sm_90a", 0, 0, 0)}`)).toEqual([`compiler: ${line}`]);
  });

  it("takes an exception up to its bounds, and refuses one that nothing needs", () => {
    const text = kernel("_Z1av", "sm_80", 16, 4, 4);
    const rule = { kernel: "_Z1a", stack: 16, spills: 8, reason: "planted" };
    expect(faultsOf(text, [rule])).toEqual([]);
    expect(faultsOf(text, [{ ...rule, spills: 7 }])).toHaveLength(2);
    expect(faultsOf(kernel("_Z1av", "sm_80", 0, 0, 0), [rule])).toEqual([expect.stringContaining("delete it")]);
  });
});
