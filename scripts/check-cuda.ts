// npm run check:cuda: what can be known of the CUDA build without a GPU. Builds it for all architectures (fetching nvcc where there is
// none), then: no stack frame, spill or C75xx remark in any kernel but those of csrc/cuda/exceptions.json; in machine code, no write to
// fragments that a product reads, and the launch registers that setmaxnreg needs; PTX of the kernels that any GPU runs; one exported
// symbol; no libcuda or libcudart among the needed libraries; it loads and answers in words where there is no driver.
// The table of registers goes to out/ci/cuda-registers.txt.

import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import path from "node:path";
import { ensureDisassembler, ensureNvcc } from "./cuda-toolkit.ts";
import { type Exception, findFaults, type KernelRow, parsePtxasLog } from "./ptxas-log.ts";
import { capture, Checks, root, show, typescript } from "./run.ts";
import {
  earlyStartFaults,
  findFragmentFaults,
  launchRegisterFaults,
  parseSass,
  type SassFunction,
  startsEarly,
  usesSetmaxnreg,
} from "./sass.ts";

const library = path.join(root, "build", "Release", "libesft_cuda.so");
const checks = new Checks("cuda");

/** A kernel with its source and the short form of its demangled name. */
type Row = KernelRow & { readonly source: string; readonly label: string };

/** The names of one list of csrc/cuda/sources.cmake. */
function sources(list: string): string[] {
  const text = readFileSync(path.join(root, "csrc/cuda/sources.cmake"), "utf8").replace(/#.*/g, "");
  const names = new RegExp(`set\\(${list}\\s([^)]*)\\)`).exec(text)?.[1];
  if (names === undefined) throw new Error(`csrc/cuda/sources.cmake has no list ${list}`);
  return names.split(/\s+/).filter(Boolean);
}

/** Of "void esft::cuda::(anonymous namespace)::f<int>(float*)": "f<int>". */
function shortName(name: string): string {
  const plain = name
    .replaceAll("(anonymous namespace)::", "")
    .replaceAll("esft::cuda::", "")
    .replace(/^\w[\w:]* (?=[\w:~]+[<(])/, "");
  let depth = 0;
  for (let i = 0; i < plain.length; i++) {
    if (plain[i] === "<") depth++;
    else if (plain[i] === ">") depth--;
    else if (plain[i] === "(" && depth === 0) return plain.slice(0, i);
  }
  return plain;
}

const objectOf = (target: string, source: string): string =>
  path.join(root, "build-cmake/Release/csrc/cuda/CMakeFiles", `${target}.dir`, `${source}.o`);

function readLogs(): { rows: Row[]; remarks: string[]; missing: string[] } {
  const rows: (KernelRow & { readonly source: string })[] = [];
  const remarks: string[] = [];
  const missing: string[] = [];
  for (const [target, list] of [
    ["esft_cuda_portable", "CUDA_PORTABLE"],
    ["esft_cuda_sm90", "CUDA_SM90"],
    ["esft_cuda_host", "CUDA_HOST"],
  ] as const) {
    for (const source of sources(list).filter((name) => name.endsWith(".cu"))) {
      const file = `${objectOf(target, source)}.ptxas`;
      if (!existsSync(file)) {
        missing.push(`${source}: no ${path.relative(root, file)}`);
        continue;
      }
      const log = parsePtxasLog(readFileSync(file, "utf8"));
      // A source may hold no kernel of its own, but not for one architecture only.
      const wanted = list === "CUDA_SM90" ? ["sm_90a"] : ["sm_80", "sm_90a"];
      const found = new Set(log.rows.filter((row) => row.entry).map((row) => row.arch));
      if (found.size > 0 && [...found].sort().join() !== wanted.join())
        missing.push(`${source}: kernels for ${[...found].join(", ")}, wanted ${wanted.join(", ")}`);
      rows.push(...log.rows.map((row) => ({ ...row, source })));
      remarks.push(...log.remarks.map((line) => `${source}: ${line}`));
    }
  }
  for (const arch of ["sm_80", "sm_90a"]) if (!rows.some((row) => row.arch === arch)) missing.push(`no kernel for ${arch}`);
  const demangled = capture("c++filt", [], { input: rows.map((row) => row.name).join("\n") }).stdout.split("\n");
  return { missing, remarks, rows: rows.map((row, i) => ({ ...row, label: shortName(demangled[i] || row.name) })) };
}

function table(rows: readonly Row[]): string {
  const columns = ["kernel", "source", "arch", "registers", "stack", "spill st", "spill ld", "smem"];
  const cells = rows.map((r) =>
    [
      r.entry ? r.label : `  function ${r.label}`,
      r.source,
      r.arch,
      r.entry ? r.registers : "",
      r.stack,
      r.spillStores,
      r.spillLoads,
      r.shared,
    ].map(String),
  );
  const width = columns.map((name, i) => Math.max(name.length, ...cells.map((row) => (row[i] ?? "").length)));
  const line = (row: readonly string[]): string =>
    row.map((cell, i) => (i < 3 ? cell.padEnd(width[i] ?? 0) : cell.padStart(width[i] ?? 0))).join("  ");
  return `${[columns, ...cells].map(line).join("\n")}\n`;
}

/** What cuobjdump says of an object. */
function inspect(object: string, ...options: string[]): string {
  const folder = ensureDisassembler(ensureNvcc());
  const env = { ...process.env, PATH: `${folder}${path.delimiter}${process.env["PATH"] ?? ""}` };
  const { ok, stdout, why } = capture(path.join(folder, "cuobjdump"), [...options, object], { env });
  if (!ok) throw new Error(`cuobjdump ${options.join(" ")} of ${path.relative(root, object)}: ${why}`);
  return stdout;
}

/** Machine code of kernels as a GPU of sm_90 runs them. */
const disassemble = (target: string, list: string): SassFunction[] =>
  sources(list).flatMap((source) => parseSass(inspect(objectOf(target, source), "-sass", "-arch", "sm_90a")));

/** PTX, which a GPU newer than sm_90 compiles: of compute_80 in every object with kernels for any GPU, and nowhere else. */
function checkPtx(rows: readonly Row[]): void {
  const withKernels = new Set(rows.filter((row) => row.entry).map((row) => row.source));
  const faults: string[] = [];
  let count = 0;
  for (const [target, list] of [
    ["esft_cuda_portable", "CUDA_PORTABLE"],
    ["esft_cuda_sm90", "CUDA_SM90"],
  ] as const)
    for (const source of sources(list).filter((name) => withKernels.has(name))) {
      const found = [...inspect(objectOf(target, source), "-lptx").matchAll(/\.(sm_\w+)\.ptx/g)].map(([, arch]) => arch);
      const wanted = list === "CUDA_PORTABLE" ? "sm_80" : "";
      if (found.join() !== wanted) faults.push(`${source}: PTX for ${found.join() || "nothing"}, wanted ${wanted || "none"}`);
      else if (wanted) count++;
    }
  checks.none("PTX of compute_80 for the kernels that any GPU runs", faults, `${count} sources`);
}

/** The gates on machine code. Each must find what it looks at: a gate that sees nothing passes everything. */
function checkSass(rows: readonly Row[]): void {
  const functions = disassemble("esft_cuda_sm90", "CUDA_SM90");
  const found = functions.map((f) => ({ name: f.name, ...findFragmentFaults(f) }));
  const products = found.reduce((sum, f) => sum + f.products, 0);
  const unseen = ["forward_wgmma", "backward_wgmma"].filter((kernel) => !found.some((f) => f.name.includes(kernel) && f.products > 0));
  checks.none(
    "fragments of A are written before the fence and after the wait",
    [
      ...found.flatMap((f) => f.faults.map((fault) => `${f.name}: ${fault}`)),
      ...unseen.map((kernel) => `${kernel}: no product with A in registers`),
    ],
    `${products} products`,
  );
  const sharing = functions.filter(usesSetmaxnreg);
  const still = ["grouped_kernel", "forward_wgmma", "backward_wgmma"].filter((kernel) => !sharing.some((f) => f.name.includes(kernel)));
  checks.none(
    "kernels that use setmaxnreg start with 168 registers",
    [
      ...launchRegisterFaults(
        functions,
        rows.filter((row) => row.entry && row.arch === "sm_90a"),
      ),
      ...still.map((kernel) => `${kernel}: does not use setmaxnreg`),
    ],
    `${sharing.length} kernels`,
  );
  const early = [...functions, ...disassemble("esft_cuda_portable", "CUDA_PORTABLE")].filter(startsEarly);
  const absent = ["grouped_kernel", "rms_norm", "combine_rows"].filter((kernel) => !early.some((f) => f.name.includes(kernel)));
  checks.none(
    "kernels that may begin early touch no memory before their wait",
    [
      ...early.flatMap((f) => earlyStartFaults(f).map((fault) => `${f.name}: ${fault}`)),
      ...absent.map((kernel) => `${kernel}: does not begin early`),
    ],
    `${early.length} kernels`,
  );
}

/** Opens the device through the addon, in a process of its own, and returns what is wrong with the answer. */
function openFaults(): { faults: string[]; answer: string } {
  const program = `
    const native = require("./build/Release/esft.node");
    try {
      const device = new native.Device("cuda", 1, 0);
      console.log("opened " + device.info().name);
      device.dispose();
    } catch (error) {
      console.log("refused " + JSON.stringify({ message: error.message, argument: error.argument }));
    }`;
  const { ok, stdout, stderr } = capture(process.execPath, ["-e", program], { env: { ...process.env, ESFT_CUDA_LIBRARY: library } });
  const answer = stdout.trim();
  if (!ok) return { faults: [`the process ended: ${stderr.split("\n").slice(-3).join(" ")}`], answer };
  if (stderr) return { faults: [`not quiet: ${stderr}`], answer };
  if (answer.startsWith("opened ")) return { faults: [], answer };
  const refused = answer.startsWith("refused ") ? (JSON.parse(answer.slice(8)) as { message?: string; argument?: string }) : null;
  const clean = refused && ["driver", "device"].includes(refused.argument ?? "") && refused.message;
  return {
    faults: clean ? [] : [`expected a device or an error that names driver or device, received: ${answer}`],
    answer: refused?.message ?? answer,
  };
}

const built = show(process.execPath, [...typescript, "scripts/cmake-build.ts", "Release", "--cuda"]);
checks.none("builds for sm_80 and sm_90a", built ? [] : ["the lines above say why"]);
if (built) {
  const { rows, remarks, missing } = readLogs();
  const text = table(rows);
  mkdirSync(path.join(root, "out/ci"), { recursive: true });
  writeFileSync(path.join(root, "out/ci/cuda-registers.txt"), text);
  console.log(text);
  checks.none("every source has its kernels for every architecture", missing, `${rows.filter((row) => row.entry).length} kernels`);
  const allowed = JSON.parse(readFileSync(path.join(root, "csrc/cuda/exceptions.json"), "utf8")) as Exception[];
  checks.none("no stack, spills or remarks of the compiler", findFaults(rows, remarks, allowed), `${allowed.length} exceptions`);

  checkSass(rows);
  checkPtx(rows);

  const symbols = capture("nm", ["-D", "--defined-only", library]);
  const exported = symbols.stdout
    .split("\n")
    .filter(Boolean)
    .map((line) => line.split(" ").at(-1));
  console.log(`library: ${(statSync(library).size / 1e6).toFixed(1)} MB`);
  checks.none("exports one symbol", symbols.ok && exported.join() === "esft_cuda_backend" ? [] : [symbols.stderr || exported.join(" ")]);
  const dynamic = capture("readelf", ["-d", library]);
  const needed = [...dynamic.stdout.matchAll(/NEEDED\).*\[(.+)\]/g)].map(([, file = ""]) => file);
  const foreign = needed.filter((name) => !/^(libstdc\+\+|libgcc_s|libc|libm|libdl|librt|libpthread|ld-linux[\w-]*)\.so/.test(name));
  checks.none(
    "needs system libraries only",
    dynamic.ok && needed.length > 0 ? foreign : [dynamic.stderr || "no NEEDED entries"],
    needed.join(" "),
  );
  const { faults, answer } = openFaults();
  checks.none("answers where there is no driver", faults, answer);
}
checks.end();
