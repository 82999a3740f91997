// npm run cuda:toolkit: prints the path of a usable nvcc. Looked for in CUDACXX, PATH, /usr/local/cuda and .cuda/; where there is
// none, NVIDIA's compiler wheels are fetched from PyPI into the git-ignored .cuda/ (105 MB, 280 MB unpacked). Nothing else of
// a CUDA installation is needed: no driver, no GPU, no root. `npm run check:cuda` fetches the disassembler in the same way (4.7 MB).

import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { root, stop } from "./run.ts";

const home = path.join(root, ".cuda");
const oldest = [12, 8] as const; // the first with every interface the sources use; CMakeLists.txt asks for the same

type Wheel = readonly [name: string, version: string, sha256: string];

// Linux x86-64 wheels. pip refuses anything whose hash differs.
const compiler: readonly Wheel[] = [
  ["nvidia-cuda-nvcc", "13.0.88", "56fe502eb77625a12f25172caa3cdddb4e4c8ba2c8c17dba44b164761b380f03"],
  ["nvidia-nvvm", "13.0.88", "c5f41ffeb6466944a026dfa5317d7d85355c119bbec279205d22f1869d1054e0"],
  ["nvidia-cuda-crt", "13.0.88", "2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4"],
  ["nvidia-cuda-cccl", "13.0.85", "e0da7ad981f3a8aff08241b5bfc1af868742a63e2762f53a5171c492ef242649"],
  ["nvidia-cuda-runtime", "13.0.96", "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548"],
];
// The first version that is there as a wheel; it reads what older compilers made.
const disassembler: readonly Wheel[] = [
  ["nvidia-cuda-cuobjdump", "13.2.86", "d332c2ffe78e703ca0a3894be927f83124244e2acf0d792b8c12b4362d44d837"],
  ["nvidia-cuda-nvdisasm", "13.2.86", "53606e719ecae07a2335f95902d5a1393a0cc1c317499ee7ffcf628a44385f2c"],
];
/** .cuda/<folder>/ holds one set of wheels: a new pin is a new folder, and a folder that exists is complete (it is renamed into place). */
const folder = (prefix: string, wheels: readonly Wheel[]): string =>
  path.join(home, `${prefix}-${wheels.map(([, version]) => version.split(".").at(-1)).join("-")}`);
const compilerFolder = folder("cu13", compiler);
const disassemblerFolder = folder("sass13", disassembler);

/** "13.0" of an nvcc that runs, else null. */
function version(nvcc: string): string | null {
  const { status, stdout } = spawnSync(nvcc, ["--version"], { encoding: "utf8" });
  return status === 0 ? (/release (\d+\.\d+)/.exec(stdout)?.[1] ?? null) : null;
}

function newEnough(found: string): boolean {
  const [major = 0, minor = 0] = found.split(".").map(Number);
  return major > oldest[0] || (major === oldest[0] && minor >= oldest[1]);
}

const fetched = path.join(compilerFolder, "bin", "nvcc");

/** The first usable nvcc, or null; and why the candidates before it are not. */
function findNvcc(env: NodeJS.ProcessEnv = process.env): { nvcc: string | null; rejected: string[] } {
  const rejected: string[] = [];
  const named = env["CUDACXX"];
  const onPath = (env["PATH"] ?? "").split(path.delimiter).filter(Boolean);
  const candidates = [
    ...(named ? [named] : []),
    ...onPath.map((dir) => path.join(dir, "nvcc")).filter(existsSync),
    "/usr/local/cuda/bin/nvcc",
    fetched,
  ].filter((file) => file === named || existsSync(file));
  for (const nvcc of candidates) {
    const found = version(nvcc);
    if (found && newEnough(found)) return { nvcc, rejected };
    rejected.push(`${nvcc} ${found ? `is version ${found}, ${oldest.join(".")} is needed` : "does not run"}`);
    if (nvcc === named) break; // asked for by name: nothing else may stand in
  }
  return { nvcc: null, rejected };
}

/** Unpacks wheels into a folder of .cuda/; `program` of them must run. Throws an Error with a message for people. */
function fetchWheels(to: string, wheels: readonly Wheel[], program: string): void {
  if (process.platform !== "linux" || process.arch !== "x64") {
    throw new Error(
      `the pinned wheels are for linux x64, this is ${process.platform} ${process.arch}: install a CUDA toolkit and set CUDACXX`,
    );
  }
  const pip = spawnSync("python3", ["-m", "pip", "--version"], { encoding: "utf8" });
  if (pip.error || pip.status !== 0) {
    throw new Error(
      `no ${program}, and ${pip.error ? "python3" : "pip of python3"} is missing, which would fetch it: install it, or a CUDA toolkit, and set CUDACXX`,
    );
  }
  mkdirSync(home, { recursive: true });
  const work = mkdtempSync(path.join(home, "fetch-"));
  try {
    const list = path.join(work, "requirements.txt");
    writeFileSync(list, wheels.map(([name, pin, hash]) => `${name}==${pin} --hash=sha256:${hash}\n`).join(""));
    const target = path.join(work, "site");
    const options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:", "--require-hashes", "--no-compile"];
    const install = ["-m", "pip", "install", ...options, "--no-cache-dir", "--target", target, "-r", list];
    console.error(`cuda toolkit: fetching ${wheels.map(([name, pin]) => `${name} ${pin}`).join(", ")}`);
    const { status, stderr } = spawnSync("python3", install, { encoding: "utf8", env: { ...process.env, PIP_REQUIRE_VIRTUALENV: "0" } });
    if (status !== 0) throw new Error(`pip could not fetch the wheels:\n${stderr.trim().split("\n").slice(-6).join("\n")}`);
    const unpacked = path.join(target, "nvidia", "cu13");
    if (existsSync(path.join(unpacked, "lib"))) symlinkSync("lib", path.join(unpacked, "lib64")); // nvcc.profile, CMake: libcudart_static.a
    if (!version(path.join(unpacked, "bin", program))) throw new Error(`the fetched ${program} does not run on this machine`);
    try {
      renameSync(unpacked, to);
    } catch (error) {
      if (!existsSync(path.join(to, "bin", program))) throw error; // else another process was faster with the same files
    }
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  // Older pins.
  const [prefix = ""] = path.basename(to).split("-");
  for (const name of readdirSync(home))
    if (name.startsWith(`${prefix}-`) && name !== path.basename(to)) rmSync(path.join(home, name), { recursive: true });
}

/** Path of a usable nvcc, fetched where there is none. @throws Error with a message for people */
export function ensureNvcc(): string {
  const { nvcc, rejected } = findNvcc();
  if (nvcc !== null) return nvcc;
  for (const why of rejected) console.error(`cuda toolkit: ${why}`);
  if (process.env["CUDACXX"]) throw new Error("CUDACXX names an nvcc that cannot be used; correct or unset it");
  fetchWheels(compilerFolder, compiler, "nvcc");
  return fetched;
}

/** Folder of cuobjdump and of the nvdisasm that it calls: beside nvcc, else fetched. @throws Error with a message for people */
export function ensureDisassembler(nvcc: string): string {
  const both = (dir: string): boolean => ["cuobjdump", "nvdisasm"].every((name) => existsSync(path.join(dir, name)));
  const fetchedTo = path.join(disassemblerFolder, "bin");
  if (both(path.dirname(nvcc))) return path.dirname(nvcc);
  if (!both(fetchedTo)) fetchWheels(disassemblerFolder, disassembler, "cuobjdump");
  return fetchedTo;
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  try {
    console.log(ensureNvcc());
  } catch (error) {
    stop("cuda toolkit", error instanceof Error ? error.message : String(error));
  }
}
