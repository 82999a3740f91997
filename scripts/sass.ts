// Reads machine code as `cuobjdump -sass` prints it, and looks at products that take A from registers (wgmma_rs): between the fence
// before such a product and the wait after it nothing may write those registers. ptxas does not refuse code that does; its results
// are undefined. Also at kernels that may begin before the one before them has ended: nothing of global memory before their wait.
// Pure; scripts/check-cuda.ts feeds it.
//
// In SASS the fence is WARPGROUP.ARRIVE, a product HGMMA (the last of a committed group carries gsb0), and the wait
// WARPGROUP.DEPBAR.LE gsb0, N: at most the N newest groups are still under way.

export interface Instruction {
  readonly address: number;
  /** With its guard, as printed. */
  readonly text: string;
  /** "HGMMA.64x128x16.F32.BF16". */
  readonly opcode: string;
  readonly operands: string;
  /** Guarded by a predicate: it may not happen. */
  readonly guarded: boolean;
}

export interface SassFunction {
  readonly name: string;
  readonly instructions: readonly Instruction[];
}

/** The functions of one listing. */
export function parseSass(text: string): SassFunction[] {
  const functions: { name: string; instructions: Instruction[] }[] = [];
  for (const line of text.split("\n")) {
    const name = /^\s*Function : (\S+)/.exec(line)?.[1];
    if (name !== undefined) functions.push({ name, instructions: [] });
    const found = /^\s*\/\*([0-9a-f]{4,})\*\/\s+(?:\{\s*)?((@!?U?P\w+\s+)?([A-Z][\w.]*)\s*([^;]*?))\s*;/.exec(line);
    if (!found) continue;
    const [, address = "", whole = "", guard, opcode = "", operands = ""] = found;
    functions
      .at(-1)
      ?.instructions.push({ address: Number.parseInt(address, 16), text: whole, opcode, operands, guarded: guard !== undefined });
  }
  return functions;
}

/** Registers that an instruction writes: [first, count], or null. Widths as far as they are told by the opcode; predicates are left out. */
export function writtenRegisters({ opcode, operands }: Instruction): readonly [number, number] | null {
  if (/^(ST|STG|STS|STL|RED|REDG|[DFHI]SETP2?|BAR|BRA|EXIT|SYNCS|FENCE|MEMBAR|R2P|CCTL|LDGSTS|ARRIVES)\b/.test(opcode)) return null;
  const first = operands
    .split(",")
    .map((operand) => operand.trim())
    .find((operand) => !/^!?U?PT?\d*$/.test(operand)); // predicates come first where there are any
  const register = /^R(\d+)(?:\.\w+)*$/.exec(first ?? "")?.[1];
  if (register === undefined) return null;
  const product = /^[A-Z]GMMA\.64x(\d+)x/.exec(opcode)?.[1];
  let count = 1;
  if (product !== undefined) count = Number(product) / 2;
  else if (/\.128\b|\.M88\.4\b|\bMMA\b|^HMMA/.test(opcode)) count = 4;
  else if (/\.64\b|\.WIDE\b|\.M88\.2\b|^D[A-Z]|^CS2R(?!\.32)|\.F64\b/.test(opcode)) count = 2;
  return [Number(register), count];
}

/** Where control goes after each instruction, by index. */
function flow(instructions: readonly Instruction[]): number[][] {
  const at = new Map(instructions.map(({ address }, i) => [address, i]));
  const target = (instruction: Instruction): number | undefined => {
    const address = /\b0x([0-9a-f]+)\s*$/.exec(instruction.operands)?.[1];
    return address === undefined ? undefined : at.get(Number.parseInt(address, 16));
  };
  const next = instructions.map((instruction, i): number[] => {
    const { opcode, guarded } = instruction;
    const on = i + 1 < instructions.length ? [i + 1] : [];
    if (/^(EXIT|RET)\b/.test(opcode)) return guarded ? on : [];
    if (/^BRA\b/.test(opcode)) {
      const to = target(instruction);
      // "BRA.DIV ~URZ, L" and "BRA !UP0, L" have conditions of their own.
      const may = guarded || instruction.operands.includes(",");
      return [...(to === undefined ? [] : [to]), ...(may ? on : [])];
    }
    return on;
  });
  // BSYNC Bn goes on where the BSSY Bn that leads to it says.
  instructions.forEach((begin, i) => {
    const barrier = /^BSSY\b/.test(begin.opcode) ? /^B\d+/.exec(begin.operands)?.[0] : undefined;
    const to = target(begin);
    if (barrier === undefined || to === undefined) return;
    const seen = new Set<number>();
    for (const stack = [...(next[i] ?? [])]; stack.length > 0;) {
      const j = stack.pop() ?? 0;
      if (seen.has(j)) continue;
      seen.add(j);
      const reached = instructions[j];
      if (reached?.opcode.startsWith("BSYNC") && reached.operands.startsWith(barrier)) {
        if (!next[j]?.includes(to)) next[j]?.push(to);
        if (!reached.guarded) next[j] = (next[j] ?? []).filter((k) => k !== j + 1 || k === to);
      } else {
        stack.push(...(next[j] ?? []));
      }
    }
  });
  return next;
}

/** The products with A in registers, and what is wrong with them: a line each. */
export function findFragmentFaults(f: SassFunction): { products: number; faults: string[] } {
  const all = f.instructions;
  const products = all.flatMap((instruction, i) => {
    const a = /^[A-Z]GMMA\b/.test(instruction.opcode) ? /^R\d+, R(\d+), gdesc/.exec(instruction.operands)?.[1] : undefined;
    return a === undefined ? [] : [{ i, a: Number(a) }];
  });
  if (products.length === 0) return { products: 0, faults: [] };
  const after = flow(all);
  const before: number[][] = all.map(() => []);
  after.forEach((to, from) => to.forEach((i) => before[i]?.push(from)));
  const faults = new Set<string>();
  const hex = (i: number): string => `0x${all[i]?.address.toString(16) ?? "?"}`;

  for (const { i, a } of products) {
    const where = `${all[i]?.text.split(",")[0] ?? ""} at ${hex(i)} with A in R${a}..R${a + 3}`;
    const look = (j: number): void => {
      const instruction = all[j];
      if (!instruction || j === i) return;
      const written = writtenRegisters(instruction);
      if (/^(CALL|BRX|JMP)/.test(instruction.opcode))
        faults.add(`${where}: "${instruction.text}" at ${hex(j)} leaves the function under it`);
      if (written && written[0] < a + 4 && written[0] + written[1] > a)
        faults.add(`${where}: "${instruction.text}" at ${hex(j)} writes it between the fence and the wait`);
    };
    // Back to the fence.
    const seen = new Set<number>();
    for (const stack = [...(before[i] ?? [])]; stack.length > 0;) {
      const j = stack.pop() ?? 0;
      if (seen.has(j)) continue;
      seen.add(j);
      if (all[j]?.opcode === "WARPGROUP.ARRIVE") continue;
      look(j);
      if (j === 0) faults.add(`${where}: no fence before it`);
      stack.push(...(before[j] ?? []));
    }
    // On to the wait. State: groups committed since, the product's own included.
    const met = new Set<string>();
    for (const stack: [number, number][] = [[i, 0]]; stack.length > 0;) {
      const [j, groups] = stack.pop() ?? [0, 0];
      const instruction = all[j];
      if (!instruction || met.has(`${j} ${groups}`)) continue;
      met.add(`${j} ${groups}`);
      look(j);
      const pending = /^gsb0, 0x([0-9a-f]+)/.exec(instruction.opcode === "WARPGROUP.DEPBAR.LE" ? instruction.operands : "")?.[1];
      if (pending !== undefined && groups > Number.parseInt(pending, 16)) continue;
      if (instruction.opcode === "EXIT" && !instruction.guarded) faults.add(`${where}: no wait after it`);
      const ends = /^[A-Z]GMMA\b/.test(instruction.opcode) && /\bgsb0\b/.test(instruction.operands);
      const now = Math.min(groups + (ends ? 1 : 0), 9);
      for (const k of after[j] ?? []) stack.push([k, now]);
    }
  }
  return { products: products.length, faults: [...faults] };
}

/** Registers that a kernel of three warpgroups starts with: 65536 / 384, a multiple of 8 at most that. */
const launchRegisters = 168;

export const usesSetmaxnreg = (f: SassFunction): boolean => f.instructions.some(({ opcode }) => opcode.startsWith("USETMAXREG"));

/**
 * Kernels that share registers out anew (setmaxnreg) do it from a known number: started with fewer, the CTA's pool is smaller and the
 * multiplying warpgroups wait for ever.
 * @param rows of the compiler's log for the same code
 */
export function launchRegisterFaults(
  functions: readonly SassFunction[],
  rows: readonly { readonly name: string; readonly label: string; readonly registers: number }[],
): string[] {
  return functions.filter(usesSetmaxnreg).flatMap(({ name }) => {
    const row = rows.find((each) => each.name === name);
    if (!row) return [`${name}: no line of the compiler says its registers`];
    if (row.registers === launchRegisters) return [];
    return [`${row.label}: starts with ${row.registers} registers, setmaxnreg is planned for ${launchRegisters}`];
  });
}

/** Takes an EarlyStart (csrc/cuda/host/early_start.cuh), as its mangled name tells. */
export const startsEarly = ({ name }: SassFunction): boolean => name.includes("EarlyStart");

/** What such a kernel does on a way to its wait (ACQBULK) that belongs behind it: a line each. */
export function earlyStartFaults(f: SassFunction): string[] {
  const all = f.instructions;
  const after = flow(all);
  const faults = new Set<string>();
  const seen = new Set<number>();
  for (const stack = [0]; stack.length > 0;) {
    const i = stack.pop() ?? 0;
    const instruction = all[i];
    if (!instruction || seen.has(i)) continue;
    seen.add(i);
    const { opcode, text, address, guarded } = instruction;
    if (opcode === "ACQBULK" && !guarded) continue;
    const place = `"${text.trim()}" at 0x${address.toString(16)}`;
    if (/^(LDG|STG|LD|ST|LDGSTS|ATOM|ATOMG|RED|REDG|UTMALDG|UTMASTG|UTMAREDG|UBLKCP|UBLKRED)\b/.test(opcode))
      faults.add(`${place} comes before the wait for the kernels before`);
    if (/^EXIT\b/.test(opcode)) faults.add(`${place} ends a thread that has not waited`);
    if (/^(CALL|BRX|JMP)\b/.test(opcode)) faults.add(`${place} leaves the function before the wait`);
    stack.push(...(after[i] ?? []));
  }
  return [...faults];
}
