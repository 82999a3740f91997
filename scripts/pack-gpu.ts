// npm run pack:gpu [-- --out DIR]: a folder (out/gpu) below 58 MB that runs the tests, the benchmarks and the peer on a machine that has
// only an NVIDIA driver and python3: `out/gpu/run.sh`. Holds the addon, sources of lib, test, bench and scripts, and two archives:
// kernels.tar.xz, the CUDA library and the debug one (which share most of their kernels, so that the second costs little), and
// runtime.tar.xz, this node, stripped, and the npm packages that lib, vitest and tsx need.

import { createHash } from "node:crypto";
import fs from "node:fs";
import path from "node:path";
import { capture, root, stop } from "./run.ts";

const name = "pack:gpu";
const limit = 58e6;
const argument = process.argv.indexOf("--out");
const out = path.resolve((argument > 0 ? process.argv[argument + 1] : undefined) ?? path.join(root, "out", "gpu"));
const library = path.join("build", "Release", "libesft_cuda.so");
/** With bounded waits, for the first part of a survey; taken along where it was built. */
const debugLibrary = path.join("build", "Release", "libesft_cuda_debug.so");
const addon = path.join("build", "Release", "esft.node");

/** What the packages of node_modules and our own say in package.json. */
interface Package {
  readonly version: string;
  readonly dependencies?: Record<string, string>;
  readonly optionalDependencies?: Record<string, string>;
}
const readPackage = (dir: string): Package => JSON.parse(fs.readFileSync(path.join(dir, "package.json"), "utf8")) as Package;

/** What a program printed; ends the script when it fails. */
function output(command: string, args: readonly string[]): string {
  const { ok, stdout, why } = capture(command, args);
  if (!ok) stop(name, `${command} ${args.slice(0, 2).join(" ")} failed: ${why}`);
  return stdout;
}

/** Of no use here: vite asks for it where a style sheet is compiled. */
const unused = ["lightningcss"];

/** The packages under node_modules that `names` reach, themselves included. Optional ones only where they are installed. */
function closure(names: readonly string[]): string[] {
  const found = new Set<string>();
  const visit = (wanted: string, from: string): void => {
    // As node looks: node_modules of the package, then of the folders above.
    for (let dir = from; ; dir = path.dirname(dir)) {
      const at = path.join(dir, "node_modules", wanted);
      if (fs.existsSync(path.join(at, "package.json"))) {
        if (found.has(at)) return;
        found.add(at);
        const pkg = readPackage(at);
        const nexts = Object.keys({ ...pkg.dependencies, ...pkg.optionalDependencies });
        for (const next of nexts.filter((n) => !unused.includes(n))) visit(next, at);
        return;
      }
      if (dir === root) return;
    }
  };
  for (const wanted of names) {
    visit(wanted, root);
    if (!found.has(path.join(root, "node_modules", wanted))) stop(name, `${wanted} is not installed: npm ci`);
  }
  return [...found].sort();
}

/** A folder's content as .tar.xz. A filter for x86 jumps makes node a tenth smaller. */
function archive(folder: string, file: string): void {
  const program = `
import lzma, os, sys, tarfile
filters = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 26}]
with lzma.open(sys.argv[2], "wb", format=lzma.FORMAT_XZ, filters=filters) as stream, tarfile.open(fileobj=stream, mode="w|") as tar:
    for name in sorted(os.listdir(sys.argv[1])):
        tar.add(os.path.join(sys.argv[1], name), arcname=name)
`;
  output("python3", ["-c", program, folder, file]);
}

/** Writes runtime.tar.xz, or takes the one of the last time when node and the packages are the same. */
function packRuntime(target: string): void {
  const needed = output("readelf", ["-d", process.execPath]);
  if (/NEEDED.*libnode/.test(needed)) stop(name, `${process.execPath} needs libnode.so: run this with a node of nodejs.org`);
  // To build the addon, to serve, to draw reports, to write TensorBoard's files.
  const left = [
    "node-addon-api",
    "node-api-headers",
    "hono",
    "@hono/node-server",
    "prom-client",
    "vega",
    "vega-lite",
    "@bufbuild/protobuf",
  ];
  const packages = closure([
    ...Object.keys(readPackage(root).dependencies ?? {}).filter((wanted) => !left.includes(wanted)),
    "vitest",
    "tsx",
  ]);
  const versions = packages.map((at) => `${path.relative(root, at)} ${readPackage(at).version}`);
  const key = createHash("sha256")
    .update(JSON.stringify([process.version, versions, fs.readFileSync(import.meta.filename, "utf8")]))
    .digest("hex")
    .slice(0, 16);
  const cache = path.join(root, "out", "pack-gpu");
  const kept = path.join(cache, `runtime-${key}.tar.xz`);
  if (!fs.existsSync(kept)) {
    fs.rmSync(cache, { recursive: true, force: true });
    const work = path.join(cache, "work");
    fs.mkdirSync(path.join(work, "bin"), { recursive: true });
    output("strip", [process.execPath, "-o", path.join(work, "bin", "node")]);
    const useless = /\.(map|md|d\.[cm]?ts|markdown|flow)$|(^|\/)(test|tests|docs|man)\//i;
    // npm tokenizers brings a binary for every platform: 60 MB, of which this one needs 5
    const own = `tokenizers.${process.platform}-${process.arch}${process.platform === "linux" ? "-gnu" : ""}.node`;
    // its sources in TypeScript, which nothing loads
    const source = (at: string, file: string): boolean => path.basename(at) === "zod" && /^src(\/|$)/.test(file);
    const foreign = (file: string): boolean => /^tokenizers\..*\.node$/.test(file) && file !== own;
    for (const at of packages) {
      fs.cpSync(at, path.join(work, path.relative(root, at)), {
        recursive: true,
        dereference: true,
        filter: (file) => {
          const inside = path.relative(at, file);
          return !useless.test(inside) && !foreign(inside) && !source(at, inside) && !inside.split(path.sep).includes("node_modules");
        },
      });
    }
    archive(work, `${kept}.part`);
    fs.renameSync(`${kept}.part`, kept);
    fs.rmSync(work, { recursive: true, force: true });
  }
  fs.copyFileSync(kept, target);
}

function folderSize(dir: string): number {
  return fs
    .readdirSync(dir, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .reduce((sum, entry) => sum + fs.statSync(path.join(entry.parentPath, entry.name)).size, 0);
}

const script = fs.readFileSync(path.join(import.meta.dirname, "gpu-run.sh"), "utf8");
if (!fs.existsSync(path.join(root, library))) stop(name, `no ${library}: npm run build:cuda`);
if (!fs.existsSync(path.join(root, addon))) stop(name, `no ${addon}: npm run build:native`);
if (fs.existsSync(out) && fs.readdirSync(out).length > 0 && !fs.existsSync(path.join(out, "run.sh")))
  stop(name, `${out} is not a folder of pack:gpu`);
fs.rmSync(out, { recursive: true, force: true });
fs.mkdirSync(path.join(out, "build", "Release"), { recursive: true });
const strip = (file: string, into: string): void => {
  fs.copyFileSync(path.join(root, file), path.join(into, file));
  output("strip", ["--strip-unneeded", path.join(into, file)]);
};
strip(addon, out);
const kernels = path.join(root, "out", "pack-gpu-kernels");
fs.rmSync(kernels, { recursive: true, force: true });
fs.mkdirSync(path.join(kernels, "build", "Release"), { recursive: true });
strip(library, kernels);
if (fs.existsSync(path.join(root, debugLibrary))) strip(debugLibrary, kernels);
else console.log(`${name}: no ${debugLibrary}: the probes of a survey will run without bounded waits`);
archive(kernels, path.join(out, "kernels.tar.xz"));
fs.rmSync(kernels, { recursive: true });
// What git has or would take: no caches, no outputs. Of the embedded model the tokenizer, which tiny models of the tests borrow.
const sources = [
  "lib",
  "test",
  "bench",
  "scripts",
  "package.json",
  "tsconfig.json",
  "vitest.config.ts",
  "LICENSE",
  ":(glob)examples/embedded/*.json",
];
/** What stays behind, for the folder has a limit: tests of other places, and fixtures but those of test/cuda and of the survey. */
const leftOut =
  /^test\/(?!(?:cuda|ops|support|golden|fixtures\/quantised)\/|generate\/support\.ts$|fixtures\/families\/(?:olmoe|olmoe-gqa-clip|deepseek-v2|deepseek-v2-lite)\/)/;
const files = output("git", ["ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", ...sources])
  .split("\0")
  .filter((file) => file !== "" && !leftOut.test(file) && !/^bench\/.*\.md$/.test(file));
for (const file of files) {
  if (!fs.existsSync(path.join(root, file))) continue;
  fs.mkdirSync(path.join(out, path.dirname(file)), { recursive: true });
  fs.copyFileSync(path.join(root, file), path.join(out, file));
}
const commit = output("git", ["describe", "--always", "--dirty", "--abbrev=12"]).trim();
fs.writeFileSync(path.join(out, "VERSION"), `esft ${readPackage(root).version} ${commit}, node ${process.version}\n`);
fs.writeFileSync(path.join(out, "run.sh"), script, { mode: 0o755 });
packRuntime(path.join(out, "runtime.tar.xz"));

const size = folderSize(out);
console.log(`pack:gpu: ${path.relative(root, out) || out}: ${(size / 1e6).toFixed(1)} MB, ${files.length} files of sources`);
if (size >= limit) stop(name, `the folder must stay below ${limit / 1e6} MB`);
