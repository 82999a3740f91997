// npm run test:package [-- --source] [-- --tarball FILE]: what a user installs. npm pack → objdump of the prebuild in it → install in an
// empty folder with a PATH without compiler and with --ignore-scripts → load, one op, the command line; the same with npm 11 and 12. Without
// the prebuild: does the error name a remedy that exists? --source tries it: builds from the tarball. --tarball: one that is there already,
// with prebuilds of any platforms.

import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import os from "node:os";
import path from "node:path";
import { checkNpmVersions } from "./npm-versions.ts";
import { capture, Checks, type Ran, root } from "./run.ts";

const pkg = JSON.parse(readFileSync(path.join(root, "package.json"), "utf8")) as {
  version: string;
  gypfile?: boolean;
  scripts: Record<string, string>;
};
const work = mkdtempSync(path.join(os.tmpdir(), "esft-package-"));
const checks = new Checks("package");
/** `--tarball`, absolute. */
const given = process.argv.includes("--tarball") ? path.resolve(process.argv[process.argv.indexOf("--tarball") + 1] ?? "") : null;

/** Where the tarball has the addon. */
const libc = process.platform !== "linux" ? "" : existsSync("/etc/alpine-release") ? ".musl" : ".glibc";
const prebuild = `prebuilds/${process.platform}-${process.arch}/esft${libc}.node`;

/** What `npm pack --json` says of the tarball. */
interface Packed {
  readonly filename: string;
  readonly size: number;
  readonly files: readonly { readonly path: string }[];
}

/** The shared object needs nothing but the C and C++ runtime, no C library newer than the promised one, and exports only `expected`. */
function checkBinary(file: string, expected: readonly string[]): void {
  const headers = capture("objdump", ["-p", file]);
  if (!checks.add(`objdump reads ${path.basename(file)}`, headers.ok, headers.why)) return;
  const needed = [...headers.stdout.matchAll(/NEEDED\s+(\S+)/g)].map(([, file = ""]) => file);
  const allowed = /^(libc|libm|libdl|libpthread|librt|libgcc_s|libstdc\+\+|ld-linux.*)\.so/;
  checks.add(
    "needs system libraries only",
    needed.every((name) => allowed.test(name)),
    needed.join(" "),
  );
  const symbols = capture("objdump", ["-T", file]).stdout;
  const versions = [...symbols.matchAll(/GLIBC_(\d+)\.(\d+)/g)].map((m): [number, number] => [Number(m[1]), Number(m[2])]);
  const newest = versions.reduce((a, b) => (b[0] > a[0] || (b[0] === a[0] && b[1] > a[1]) ? b : a), [2, 0]);
  checks.add("glibc 2.34 is enough", newest[0] === 2 && newest[1] <= 34, `GLIBC_${newest.join(".")}`);
  const exported = symbols
    .split("\n")
    .filter((line) => / g /.test(line) && !line.includes("*UND*"))
    .map((line) => line.trim().split(/\s+/).at(-1));
  checks.add("exports nothing else", exported.sort().join() === expected.join(), exported.join(" "));
}

function checkTarball(packed: Packed): void {
  const files = packed.files.map((f) => f.path);
  const has = (file: string): boolean => checks.add(`tarball has ${file}`, files.includes(file));
  for (const file of ["dist/index.js", "dist/index.d.ts", "dist/cli/main.js", "CMakeLists.txt", "csrc/addon/addon.cc"]) has(file);
  // The addon, under the name of the C library on Linux; the CUDA library where nvcc is; nothing of the tests.
  const there = files.filter((f) => f.startsWith("prebuilds/"));
  const here = [prebuild, path.posix.join(path.posix.dirname(prebuild), "libesft_cuda.so")];
  const anywhere = /^prebuilds\/(linux-(x64|arm64)\/esft\.(glibc|musl)|darwin-(x64|arm64)\/esft)\.node$/;
  checks.add("tarball has the prebuild of this platform", there.includes(prebuild), there.join(" "));
  checks.none(
    "and no other binary",
    there.filter((f) => !here.includes(f) && !(given && anywhere.test(f))),
  );
  if (existsSync(path.join(root, "examples/embedded/config.json"))) has("examples/embedded/config.json");
  const foreign = files.filter((f) => f === "binding.gyp" || f.endsWith(".map") || /^(test|bench|build|lib|node_modules|\.)/.test(f));
  checks.add("tarball has nothing foreign", foreign.length === 0, foreign.slice(0, 5).join(" "));
  const scripts = ["preinstall", "install", "postinstall"].filter((name) => pkg.scripts[name]);
  checks.add("nothing runs at install", scripts.length === 0 && pkg.gypfile === false, scripts.join(" "));
  checks.add("tarball below 24 MB", packed.size < 24e6, `${(packed.size / 1e6).toFixed(1)} MB packed, ${files.length} files`);
}

/** A tarball as npm pack would have told of it. */
function told(file: string): Packed {
  const { stdout } = capture("tar", ["-tzf", file]);
  const files = stdout.split("\n").flatMap((line) => (line.startsWith("package/") ? [{ path: line.slice("package/".length) }] : []));
  return { filename: file, size: statSync(file).size, files };
}

/** PATH with node and npm only. */
function bareEnvironment(): NodeJS.ProcessEnv {
  const bin = path.join(work, "bin");
  mkdirSync(bin);
  symlinkSync(process.execPath, path.join(bin, "node"));
  for (const name of ["npm", "npx", "sh"]) {
    const found = (process.env["PATH"] ?? "")
      .split(path.delimiter)
      .map((dir) => path.join(dir, name))
      .find(existsSync);
    if (found) symlinkSync(realpathSync(found), path.join(bin, name));
  }
  const keep = Object.entries(process.env).filter(([name]) => !/^npm_/i.test(name) && !name.startsWith("ESFT_"));
  return { ...Object.fromEntries(keep), PATH: bin };
}

const program = `
import { Device, loadTokenizer, ops } from "esft";
const device = new Device({ threads: 1 });
const x = device.tensor("f32", [2, 2], [1, 2, 3, 4]);
const y = device.empty("f32", [2, 2]);
ops.gemm(device, "nt", { a: x, b: x, c: y });
console.log([...(await y.readF32())].join(" "));
device.dispose();
const tokenizer = await loadTokenizer("node_modules/esft/examples/embedded").catch((error) => console.log(error.message));
if (tokenizer) console.log(tokenizer.decode(await tokenizer.encode("text é 世界")));
`;

// The server as a process: it answers, and ends after SIGTERM.
const serving = `
import { spawn } from "node:child_process";
const embedded = "node_modules/esft/examples/embedded";
const server = spawn(process.execPath, ["node_modules/esft/dist/cli/main.js", "serve", embedded, "--port", "0", "--threads", "1"]);
const ended = new Promise((resolve) => server.on("close", resolve));
const url = await new Promise((resolve) => {
  let out = "";
  server.stdout.on("data", (text) => {
    const [, found] = /listening on (http\\S+)\\n/.exec((out += text)) ?? [];
    if (found) resolve(found);
  });
  ended.then(() => resolve(null));
});
const body = JSON.stringify({ model: "embedded", messages: [{ role: "user", content: "What is 3 + 4?" }], max_tokens: 4 });
const headers = { "Content-Type": "application/json" };
if (url) console.log((await fetch(url + "/v1/chat/completions", { method: "POST", headers, body })).status);
server.kill("SIGTERM");
console.log(await ended);
`;

function checkInstalled(tarball: string): void {
  const app = path.join(work, "app");
  mkdirSync(app);
  writeFileSync(path.join(app, "package.json"), '{ "name": "app", "private": true }\n');
  writeFileSync(path.join(app, "program.mjs"), program);
  writeFileSync(path.join(app, "serving.mjs"), serving);
  const env = bareEnvironment();
  const bare = { cwd: app, env };
  const install = capture("npm", ["install", "--ignore-scripts", "--no-audit", "--no-fund", tarball], bare);
  if (!checks.add("installs without compiler and scripts", install.ok, install.why)) return;
  const op = (): Ran => capture("node", ["program.mjs"], bare);
  const first = op();
  const [numbers, text] = first.stdout.trim().split("\n");
  checks.add("loads and computes from the prebuild", numbers === "5 11 11 25", first.why);
  checks.add("encodes and decodes with the binary of npm tokenizers", text === "text é 世界", `${text ?? ""} ${first.why}`);
  const esft = (...args: string[]): Ran => capture("npx", ["--no-install", "esft", ...args], bare);
  const version = esft("--version");
  checks.add("npx esft --version", version.stdout.trim() === pkg.version, version.why);
  const doctor = esft("doctor");
  checks.add("npx esft doctor", doctor.ok && doctor.stdout.includes(path.basename(prebuild)), doctor.why);
  const embedded = "node_modules/esft/examples/embedded";
  const evaluated = esft("eval", embedded, "--data", `${embedded}/data/booking.test.jsonl`, "--rows", "4", "--threads", "1");
  checks.add("npx esft eval of the embedded model", evaluated.ok, evaluated.why);
  const [profile, page] = [path.join(work, "profile.json"), path.join(work, "page.html")];
  const profiled = esft("profile", embedded, `${embedded}/data/booking.test.jsonl`, "-o", profile, "--tokens", "256", "--threads", "1");
  const reported = profiled.ok ? esft("report", profile, "-o", page) : profiled;
  checks.add(
    "npx esft report draws with vega as it is installed",
    reported.ok && readFileSync(page, "utf8").includes("<svg role"),
    reported.why,
  );
  const served = capture("node", ["serving.mjs"], bare);
  checks.add("esft serve answers, and ends with 0 after SIGTERM", served.stdout === "200\n0\n", `${served.stdout}${served.why}`);
  checkNpmVersions(checks, { tarball, program, expected: "5 11 11 25", env, work });
  // npm tokenizers holds the binaries of all platforms itself: without them only tokenizers are missing
  for (const file of readdirSync(path.join(app, "node_modules/tokenizers")))
    if (file.endsWith(".node")) rmSync(path.join(app, "node_modules/tokenizers", file));
  const [alone, says = ""] = op().stdout.trim().split("\n");
  checks.add(
    "without its binary all else works and the error says what to do",
    alone === "5 11 11 25" && says.includes("npm install tokenizers"),
    says,
  );
  rmSync(path.join(app, "node_modules/esft/prebuilds"), { recursive: true });
  const without = op();
  const remedy = "npx esft build";
  checks.add(
    "without a binary the error says what to do here, and nothing that works elsewhere only",
    !without.ok && without.stderr.includes(remedy) && !without.stderr.includes("npm run") && !without.stderr.includes("npm i "),
    without.ok ? "it loaded" : "",
  );
  const sick = esft("doctor");
  checks.add("then esft doctor fails and says the same", !sick.ok && sick.stdout.includes(remedy), sick.ok ? "it passed" : "");
  const bareBuild = esft("build");
  checks.add(
    "esft build without cmake says what is missing",
    !bareBuild.ok && bareBuild.stderr.includes("cmake not found"),
    bareBuild.stderr,
  );
  if (!process.argv.includes("--source")) return;
  const built = capture("npx", ["--no-install", "esft", "build"], { cwd: app });
  checks.add(`${remedy} makes one from the tarball`, built.ok, built.why);
  const left = readdirSync(path.join(app, "node_modules/esft")).filter((name) => name.startsWith("build"));
  checks.add("and leaves nothing but build/", left.join() === "build", left.join(" "));
  const second = op();
  checks.add("loads and computes from source", second.stdout.startsWith("5 11 11 25"), second.why);
}

/** npm pack here; what it made, or null. */
function packHere(): Packed | null {
  rmSync(path.join(root, "prebuilds"), { recursive: true, force: true }); // npm pack makes it
  const pack = capture("npm", ["pack", "--json", "--pack-destination", work]);
  if (!checks.add("npm pack", pack.ok, pack.why)) return null;
  const file = path.join(root, prebuild);
  const symbols = ["napi_register_module_v1", "node_api_module_get_api_version_v1"];
  if (checks.add("npm pack makes the prebuild", existsSync(file)) && process.platform === "linux") checkBinary(file, symbols);
  const cuda = path.join(path.dirname(file), "libesft_cuda.so");
  if (existsSync(cuda)) checkBinary(cuda, ["esft_cuda_backend"]);
  else console.log("      no CUDA library in the prebuild: no nvcc here (npm run cuda:toolkit)");
  // npm 11 prints a list, npm 12 an object by package name; the output of `prepare` comes first.
  const start = [...pack.stdout.matchAll(/^[[{]$/gm)].at(-1)?.index ?? 0;
  const [packed] = Object.values(JSON.parse(pack.stdout.slice(start)) as Record<string, Packed>);
  checks.add("npm pack says what it packed", packed !== undefined, packed ? "" : pack.stdout.slice(start, start + 200));
  return packed ? { ...packed, filename: path.join(work, packed.filename) } : null;
}

try {
  const packed = given ? told(given) : packHere();
  if (packed) {
    checkTarball(packed);
    checkInstalled(packed.filename);
  }
} finally {
  rmSync(work, { recursive: true, force: true });
}
checks.end();
