// The gate on products with A in registers must be able to fail: listings as cuobjdump prints them, with writes in the wrong places.
import { describe, expect, it } from "vitest";
import { earlyStartFaults, findFragmentFaults, launchRegisterFaults, parseSass, writtenRegisters } from "../../scripts/sass.ts";

/** A listing of one function; every line an instruction of 16 bytes. */
function listing(...lines: string[]): string {
  const body = lines.map(
    (line, i) =>
      `        /*${(16 * i).toString(16).padStart(4, "0")}*/  ${line.startsWith("@") ? "" : "     "} ${line} ;   /* 0x0000000000007948 */\n` +
      `                                                  /* 0x000fea0003800000 */`,
  );
  return `\n\tcode for sm_90a\n\n\t\tFunction : _Z1kv\n\t.headerflags\t@"EF_CUDA_SM90"\n${body.join("\n")}\n\t\t..........\n`;
}
function faultsOf(...lines: string[]): string[] {
  const [f, ...more] = parseSass(listing(...lines));
  if (!f || more.length > 0) throw new Error("one function is expected");
  return findFragmentFaults(f).faults;
}

const pack = "F2FP.BF16.F32.PACK_AB R152, R89, R88";
const fence = "WARPGROUP.ARRIVE";
const scores = "HGMMA.64x128x16.F32.BF16 R88, gdesc[UR16], R88, gsb0";
const values = "HGMMA.64x128x16.F32.BF16 R24, R152, gdesc[UR16].tnspB, R24, gsb0";
const wait = (pending: number): string => `WARPGROUP.DEPBAR.LE gsb0, 0x${pending}`;

describe("parseSass", () => {
  it("reads names, addresses, guards and operands", () => {
    const [f] = parseSass(listing("@!P0 BRA 0x10", scores));
    expect(f?.name).toBe("_Z1kv");
    expect(f?.instructions).toEqual([
      { address: 0, text: "@!P0 BRA 0x10", opcode: "BRA", operands: "0x10", guarded: true },
      {
        address: 16,
        text: scores,
        opcode: "HGMMA.64x128x16.F32.BF16",
        operands: "R88, gdesc[UR16], R88, gsb0",
        guarded: false,
      },
    ]);
  });

  it.each([
    [pack, [152, 1]],
    ["LDS.128 R152, [UR4]", [152, 4]],
    ["LDSM.16.M88.4 R152, [R3]", [152, 4]],
    ["IMAD.WIDE.U32 R152, R3, 0x4, R4", [152, 2]],
    ["SHFL.BFLY PT, R152, R194, 0x1, 0x1f", [152, 1]],
    ["LOP3.LUT P0, R152, R3, 0x1, RZ, 0xc0, !PT", [152, 1]],
    ["HGMMA.64x192x16.F32.BF16 R24, gdesc[UR12], R24", [24, 96]],
    ["STG.E desc[UR6][R152.64], R3", null],
    ["ISETP.NE.AND P1, PT, R152, RZ, PT", null],
    ["R2UR UR4, R152", null],
  ] as const)("knows what %s writes", (line, written) => {
    const instruction = parseSass(listing(line))[0]?.instructions[0];
    expect(instruction && writtenRegisters(instruction)).toEqual(written);
  });
});

describe("findFragmentFaults", () => {
  it("has nothing against fragments made before the fence and after the wait", () => {
    expect(faultsOf(pack, fence, scores, values, wait(1), "FMUL R88, R88, R3", wait(0), pack, "EXIT")).toEqual([]);
  });

  it("finds a write between the fence and the product", () => {
    expect(faultsOf(fence, scores, pack, values, wait(0), "EXIT")).toEqual([expect.stringContaining(`"${pack}" at 0x20 writes it`)]);
  });

  it("finds a write after the product and before the wait that is its own", () => {
    expect(faultsOf(fence, values, pack, wait(0), "EXIT")).toHaveLength(1);
    // One group may still be under way: that of the product itself.
    expect(faultsOf(fence, scores, values, wait(1), pack, wait(0), "EXIT")).toHaveLength(1);
    // Here it is the group after it.
    expect(faultsOf(fence, values, scores, wait(1), pack, wait(0), "EXIT")).toEqual([]);
  });

  it("finds a write to part of the fragment, and by a vector or another product that begins below it", () => {
    expect(faultsOf(fence, values, "IADD3 R155, R3, R4, RZ", wait(0), "EXIT")).toHaveLength(1);
    expect(faultsOf(fence, values, "IADD3 R156, R3, R4, RZ", wait(0), "EXIT")).toEqual([]);
    expect(faultsOf(fence, values, "LDS.128 R150, [UR4]", wait(0), "EXIT")).toHaveLength(1);
    expect(faultsOf(fence, "HGMMA.64x128x16.F32.BF16 R104, gdesc[UR16], R104, gsb0", values, wait(0), "EXIT")).toHaveLength(1);
  });

  it("follows branches: a loop's end, a block out of line, the join of a divergent one", () => {
    // 0x10: the next round's fence comes after this round's wait.
    expect(faultsOf(pack, fence, values, wait(0), pack, "@P0 BRA 0x10", "EXIT")).toEqual([]);
    expect(faultsOf(pack, fence, values, pack, "@P0 BRA 0x10", wait(0), "EXIT")).toHaveLength(1);
    expect(faultsOf(fence, values, "@P0 BRA 0x50", wait(0), "EXIT", pack, "BRA 0x30")).toHaveLength(1);
    expect(faultsOf(fence, values, "@P0 BRA 0x50", wait(0), "EXIT", "IADD3 R3, R3, R4, RZ", "BRA 0x30", pack)).toEqual([]);
    expect(faultsOf(fence, values, "BSSY B0, 0x60", "@P0 BRA 0x50", "BSYNC B0", "BSYNC B0", pack, wait(0), "EXIT")).toHaveLength(1);
  });

  it("misses a fence or a wait", () => {
    expect(faultsOf("NOP", values, wait(0), "EXIT")).toEqual([expect.stringContaining("no fence")]);
    expect(faultsOf(fence, values, "EXIT")).toEqual([expect.stringContaining("no wait")]);
    expect(faultsOf(fence, values, "CALL.REL.NOINC 0x10", wait(0), "EXIT")).toEqual([expect.stringContaining("leaves the function")]);
  });

  it("counts products with A in registers alone", () => {
    const [f] = parseSass(listing(fence, scores, values, values, wait(0), "EXIT"));
    expect(f && findFragmentFaults(f).products).toBe(2);
  });
});

describe("launchRegisterFaults", () => {
  const functions = parseSass(listing("@P0 USETMAXREG.TRY_ALLOC.CTAPOOL UP0, 0xf0", "EXIT"));
  const row = { name: "_Z1kv", label: "k<1>", registers: 168 };

  it("wants 168 registers of every kernel that changes its number", () => {
    expect(launchRegisterFaults(functions, [row])).toEqual([]);
    expect(launchRegisterFaults(functions, [{ ...row, registers: 160 }])).toEqual([expect.stringContaining("k<1>: starts with 160")]);
    expect(launchRegisterFaults(functions, [])).toEqual([expect.stringContaining("_Z1kv")]);
    expect(launchRegisterFaults(parseSass(listing("EXIT")), [{ ...row, registers: 40 }])).toEqual([]);
  });
});

describe("earlyStartFaults", () => {
  const of = (...lines: string[]): string[] => earlyStartFaults(parseSass(listing(...lines))[0]!);

  it("has nothing against barriers and parameters before the wait", () => {
    expect(of("LDC R1, c[0x0][0x28]", "@P0 BRA 0x30", "SYNCS.EXCH.64 URZ, [UR4], UR6", "UTMACCTL.PF [UR4]", "ACQBULK", "LDG.E R0, desc[UR4][R2.64]", "EXIT")).toEqual([]); // prettier-ignore
  });

  it("sees memory before it, on any way, and a thread that never comes there", () => {
    expect(of("LDG.E R0, desc[UR4][R2.64]", "ACQBULK", "EXIT")).toEqual([expect.stringMatching(/^"LDG.E .*at 0x0 comes before the wait/)]);
    expect(of("@P0 BRA 0x20", "ACQBULK", "STG.E desc[UR4][R2.64], R5", "EXIT")).toEqual([
      expect.stringMatching(/^"STG.E .* at 0x20 comes before/),
      expect.stringMatching(/^"EXIT" at 0x30 ends a thread/),
    ]);
    expect(of("@P0 EXIT", "ACQBULK", "EXIT")).toEqual([expect.stringMatching(/^"@P0 EXIT" at 0x0 ends a thread/)]);
    expect(of("@P0 ACQBULK", "EXIT")).toEqual([expect.stringMatching(/^"EXIT" at 0x10 ends a thread/)]);
    expect(of("LDGSTS.E.BYPASS.128 [R9], desc[UR4][R2.64]", "ACQBULK", "EXIT")).toHaveLength(1);
  });
});
