// Reads what `ptxas -v` prints: registers, stack, spills and static shared memory of each kernel, and the C75xx remarks, which say
// that wgmma instructions were serialised or setmaxnreg ignored. Pure; scripts/check-cuda.cjs feeds it.
"use strict";

/**
 * One row per kernel, and per device function that was not inlined, of one object's log; and the lines that are more than information.
 * @returns {{ rows: { name: string, arch: string, entry: boolean, registers: number, stack: number, spillStores: number, spillLoads: number,
 *   shared: number }[], remarks: string[] }}
 */
function parsePtxasLog(text) {
  const rows = [];
  const remarks = [];
  let entry = null;
  let current = null;
  for (const line of text.split("\n")) {
    let m;
    if (/\(C\d{4,5}\)/.test(line) || /\bwarning\b|^ptxas (?!info)/i.test(line)) {
      remarks.push(line.trim());
    } else if ((m = /Compiling entry function '([^']+)' for '([^']+)'/.exec(line))) {
      entry = { name: m[1], arch: m[2] };
      current = null;
    } else if ((m = /Function properties for (\S+)/.exec(line))) {
      current = {
        name: m[1],
        arch: entry?.arch ?? "?",
        entry: m[1] === entry?.name,
        registers: 0,
        stack: 0,
        spillStores: 0,
        spillLoads: 0,
        shared: 0,
      };
      rows.push(current);
    } else if ((m = /(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/.exec(line)) && current) {
      [current.stack, current.spillStores, current.spillLoads] = m.slice(1).map(Number);
    } else if ((m = /Used (\d+) registers/.exec(line)) && current) {
      // The line of the kernel itself may come after those of its functions.
      const kernel = rows.findLast((row) => row.entry && row.arch === entry?.arch && row.name === entry?.name) ?? current;
      kernel.registers = Number(m[1]);
      kernel.shared = Number(/(\d+) bytes smem/.exec(line)?.[1] ?? 0);
    }
  }
  return { rows, remarks };
}

/**
 * What is wrong with a build. `allowed`: [{ kernel: part of its demangled name, stack, spills, reason }]: upper bounds in bytes; an entry
 * that nothing needs any more is wrong too. Rows carry `label`, the demangled name.
 */
function findFaults(rows, remarks, allowed = []) {
  const faults = remarks.map((line) => `compiler: ${line}`);
  const used = new Set();
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

module.exports = { findFaults, parsePtxasLog };
