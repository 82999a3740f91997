// Reads what `ptxas -v` prints: registers, stack, spills and static shared memory of each kernel, and the C75xx remarks, which say
// that wgmma instructions were serialised or setmaxnreg ignored. Pure; scripts/check-cuda.ts feeds it.

/** A kernel, or a device function that was not inlined. Sizes in bytes. */
export interface KernelRow {
  readonly name: string;
  readonly arch: string;
  /** A kernel. */
  readonly entry: boolean;
  registers: number;
  stack: number;
  spillStores: number;
  spillLoads: number;
  shared: number;
}

/** What csrc/cuda/exceptions.json allows: upper bounds in bytes. */
export interface Exception {
  /** Part of the kernel's demangled name. */
  readonly kernel: string;
  readonly stack: number;
  readonly spills: number;
  readonly reason: string;
}

/** The rows of one object's log, and the lines that are more than information. */
export function parsePtxasLog(text: string): { rows: KernelRow[]; remarks: string[] } {
  const rows: KernelRow[] = [];
  const remarks: string[] = [];
  let entry: { name: string; arch: string } | null = null;
  let current: KernelRow | null = null;
  for (const line of text.split("\n")) {
    if (/\(C\d{4,5}\)/.test(line) || /\bwarning\b|^ptxas (?!info)/i.test(line)) {
      remarks.push(line.trim());
      continue;
    }
    const begun = /Compiling entry function '(?<name>[^']+)' for '(?<arch>[^']+)'/.exec(line)?.groups;
    if (begun) {
      entry = { name: begun["name"] ?? "", arch: begun["arch"] ?? "" };
      current = null;
      continue;
    }
    const described = /Function properties for (\S+)/.exec(line)?.[1];
    if (described !== undefined) {
      current = {
        name: described,
        arch: entry?.arch ?? "?",
        entry: described === entry?.name,
        registers: 0,
        stack: 0,
        spillStores: 0,
        spillLoads: 0,
        shared: 0,
      };
      rows.push(current);
      continue;
    }
    if (!current) continue;
    const spilled = /(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/.exec(line);
    if (spilled) [current.stack = 0, current.spillStores = 0, current.spillLoads = 0] = spilled.slice(1).map(Number);
    const used = /Used (\d+) registers/.exec(line)?.[1];
    if (used === undefined) continue;
    // The line of the kernel itself may come after those of its functions.
    const kernel = rows.findLast((row) => row.entry && row.arch === entry?.arch && row.name === entry?.name) ?? current;
    kernel.registers = Number(used);
    kernel.shared = Number(/(\d+) bytes smem/.exec(line)?.[1] ?? 0);
  }
  return { rows, remarks };
}

/**
 * What is wrong with a build; an exception that nothing needs any more is wrong too.
 * @param rows with `label`, the demangled name
 */
export function findFaults(
  rows: readonly (KernelRow & { readonly label: string })[],
  remarks: readonly string[],
  allowed: readonly Exception[] = [],
): string[] {
  const faults = remarks.map((line) => `compiler: ${line}`);
  const used = new Set<Exception>();
  for (const row of rows) {
    const spills = row.spillStores + row.spillLoads;
    if (row.stack === 0 && spills === 0) continue;
    const rule = allowed.find(({ kernel, stack, spills: most }) => row.label.includes(kernel) && row.stack <= stack && spills <= most);
    if (rule) used.add(rule);
    else
      faults.push(
        `${row.label} (${row.arch}): stack ${row.stack}, spill stores ${row.spillStores}, spill loads ${row.spillLoads}; 0 is wanted`,
      );
  }
  for (const rule of allowed) if (!used.has(rule)) faults.push(`nothing needs the exception for "${rule.kernel}" any more: delete it`);
  return faults;
}
