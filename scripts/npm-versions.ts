// Other versions of npm than this machine's, and a Node that runs them, for npm run test:package: the tarball installs with each as users
// call it, and no script has to run for that.

import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { capture, type Checks } from "./run.ts";

/** How a version of npm is called. npm 12 runs no scripts of dependencies unless it is told to. */
const ways: readonly { readonly npm: number; readonly flags: readonly string[] }[] = [
  { npm: 11, flags: ["--ignore-scripts"] },
  { npm: 12, flags: [] },
  { npm: 12, flags: ["--ignore-scripts"] },
];
/** Of what npm 12 runs on; npm has Node's binaries as packages, which need no script either. */
const newerNode = 24;

interface Tools {
  readonly node: string;
  readonly npm: string;
  readonly version: string;
}

/** npm of this major version and a Node that it runs on: this one, or a newer one. Words where there is none to be had. */
function fetchTools(npm: number, work: string): Tools | string {
  const folder = path.join(work, `npm-${npm}`);
  const cli = path.join(folder, "node_modules/npm/bin/npm-cli.js");
  const fetched = (...packages: string[]): string => {
    const { ok, why } = capture("npm", ["install", "--prefix", folder, "--no-audit", "--no-fund", "--ignore-scripts", ...packages]);
    return ok ? "" : why;
  };
  const version = (node: string): string => {
    const { ok, stdout, stderr } = capture(node, [cli, "--version"]);
    return ok && !/does not support|unsupported/i.test(stderr) ? stdout.trim() : "";
  };
  mkdirSync(folder, { recursive: true });
  const why = existsSync(cli) ? "" : fetched(`npm@${npm}`);
  if (why) return why;
  let node = process.execPath;
  if (!version(node)) {
    const name = `node-${process.platform === "win32" ? "win" : process.platform}-${process.arch}`;
    const missing = fetched(`npm@${npm}`, `${name}@${newerNode}`);
    if (missing) return missing;
    node = path.join(folder, "node_modules", name, "bin/node");
  }
  return version(node) ? { node, npm: cli, version: version(node) } : `it does not run on ${node}`;
}

/**
 * Installs `tarball` in a new folder with each npm and runs `program` there, which prints `expected` first.
 * @param env without a compiler · @param work a folder for all this
 */
export function checkNpmVersions(
  checks: Checks,
  { tarball, program, expected, env, work }: { tarball: string; program: string; expected: string; env: NodeJS.ProcessEnv; work: string },
): void {
  for (const { npm, flags } of ways) {
    const tools = fetchTools(npm, work);
    if (typeof tools === "string") {
      console.log(`      npm ${npm} ${flags.join(" ")}: skipped, it could not be had: ${tools.split("\n").at(-1)}`);
      continue;
    }
    const app = path.join(work, `app-${npm}${flags.join("")}`);
    mkdirSync(app);
    writeFileSync(path.join(app, "package.json"), '{ "name": "app", "private": true }\n');
    writeFileSync(path.join(app, "program.mjs"), program);
    const PATH = `${path.dirname(tools.node)}${path.delimiter}${env["PATH"] ?? ""}`;
    const bare = { cwd: app, env: { ...env, PATH } };
    const install = capture(tools.node, [tools.npm, "install", ...flags, "--no-audit", "--no-fund", tarball], bare);
    const how = `npm ${tools.version} install ${flags.join(" ") || "as it is"}`;
    if (!checks.add(`${how}: installs without a compiler`, install.ok, install.why)) continue;
    const ran = capture(tools.node, ["program.mjs"], bare);
    checks.add(`${how}: loads and computes at once`, ran.stdout.startsWith(`${expected}\n`), ran.why);
    const doctor = capture(tools.node, ["node_modules/esft/dist/cli/main.js", "doctor"], bare);
    checks.add(`${how}: esft doctor`, doctor.ok, doctor.why);
  }
}
