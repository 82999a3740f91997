// Stage "machine": what this is and which tools work on it. Nothing here needs a kernel of ours to be right.

import { spawn, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import path from "node:path";
import { Device } from "../../../lib/tensor.ts";
import * as ops from "../../../lib/ops.ts";
import { root, typescript } from "../../run.ts";
import { Absent } from "../item.ts";
import type { Item, Outcome, StageContext } from "../item.ts";

const fields = [
  "name",
  "driver_version",
  "memory.total",
  "clocks.sm",
  "clocks.max.sm",
  "clocks.mem",
  "clocks.max.mem",
  "power.draw",
  "power.limit",
  "temperature.gpu",
  "persistence_mode",
  "compute_mode",
  "mig.mode.current",
];

function nvidiaSmi(): Outcome {
  const { status, stdout, error } = spawnSync("nvidia-smi", [`--query-gpu=${fields.join(",")}`, "--format=csv,noheader"], {
    encoding: "utf8",
    timeout: 8000,
  });
  if (error && "code" in error && error.code === "ENOENT") throw new Absent("no nvidia-smi: this machine has no NVIDIA driver");
  if (status !== 0) throw new Error(`nvidia-smi: ${error?.message ?? stdout.trim()}`);
  const [first = ""] = stdout.trim().split("\n");
  const values = first.split(", ");
  return { text: first, data: Object.fromEntries(fields.map((field, i) => [field, values[i] ?? ""])) };
}

async function openDevice(): Promise<Outcome> {
  const began = performance.now();
  using device = new Device({ kind: "cuda" });
  const opened = performance.now() - began;
  using x = device.empty("f32", [1 << 20]);
  ops.fill(device, { x, value: 3 });
  const values = await x.readF32();
  if (!values.every((v) => v === 3)) throw new Error("a kernel that fills a tensor with 3 did not");
  const { info } = device;
  const first = performance.now() - began - opened;
  const text = `${info.name}, ${info.instructionSet}, ${(info.memoryBytes / 2 ** 30).toFixed(0)} GiB; opened in ${opened.toFixed(0)} ms, first kernel and read ${first.toFixed(0)} ms`;
  return { text, data: { ...info } };
}

function find(tool: string): string | null {
  const found = spawnSync("sh", ["-c", `command -v ${tool}`], { encoding: "utf8" }).stdout.trim();
  const places = [found, `/usr/local/cuda/bin/${tool}`, `/usr/local/cuda/compute-sanitizer/${tool}`];
  return places.find((place) => place !== "" && existsSync(place)) ?? null;
}

/** Exit code of compute-sanitizer that has found an error in what it ran. */
const FOUND = 9;

/** A tool of the toolkit around one kernel: whether it can work here, not what it finds. */
function tool(name: string, args: readonly string[], works: RegExp): Promise<Outcome> {
  const program = find(name);
  if (program === null) return Promise.reject(new Absent(`no ${name} on this machine`));
  const kernel = path.join(root, "scripts", "survey", "one_kernel.ts");
  return new Promise((resolve, reject) => {
    let text = "";
    const child = spawn(program, [...args, process.execPath, ...typescript, kernel], { cwd: root, stdio: ["ignore", "pipe", "pipe"] });
    child.stdout.on("data", (b: Buffer) => void (text += b.toString()));
    child.stderr.on("data", (b: Buffer) => void (text += b.toString()));
    child.on("error", reject);
    child.on("close", (code) => {
      console.log(text);
      const said = text.trim().split("\n").findLast((line) => /^=+/.test(line)) ?? text.trim().slice(-200); // prettier-ignore
      if (code === 0 && works.test(text)) resolve({ text: `works: ${said}`, data: { program } });
      else if (code === FOUND) reject(new Error(said));
      else reject(new Absent(`does not work here (exit ${code}): ${said}`));
    });
  });
}

export function items({ dry }: StageContext): Item[] {
  // Both start when the first is asked for: what takes time is the start of node under them.
  let started: { sanitizer: Promise<Outcome>; ncu: Promise<Outcome> } | null = null;
  const tools = (): NonNullable<typeof started> => {
    if (dry) throw new Absent("a dry run starts no tools of the toolkit");
    if (!started) {
      const sanitizer = ["--tool", "memcheck", "--target-processes", "all", "--error-exitcode", String(FOUND)];
      const ncu = ["--target-processes", "all", "--metrics", "sm__cycles_elapsed.max", "--launch-count", "1"];
      started = {
        sanitizer: tool("compute-sanitizer", sanitizer, /ERROR SUMMARY: 0 errors/),
        ncu: tool("ncu", ncu, /sm__cycles_elapsed/),
      };
      started.ncu.catch(() => undefined); // awaited by a later item
    }
    return started;
  };
  return [
    { name: "nvidia-smi", run: nvidiaSmi },
    { name: "device", run: openDevice, patience: 8 },
    { name: "compute-sanitizer", run: () => tools().sanitizer, optional: true },
    { name: "ncu", run: () => tools().ncu, optional: true },
  ];
}
