// npm run bench -- [FILTER] [--device cpu|cuda|cuda:N] [--peer PYTHON [--variants RE]] [--json FILE] [--list]
//   CPU    [--threads N] [--rounds N]
//   CUDA   [--seconds N] [--headline] [--peers headline|all|none] [--markdown FILE] [--tiny]
//          --from FILE[,FILE] [--markdown FILE]     the report of JSON files of earlier runs, nothing measured
//
// FILTER is a regular expression on case ids (gemm/…, attention/…, head/…, layer/…, step/…, adamw/…). --peer takes a Python that has
// torch and transformers: bench/peer_torch.py then runs the same case in the same minutes, and the fastest of its variants is shown. On
// CUDA it is looked for ($PYTHON, python3, /opt/peer/bin/python) unless --peers none; cuBLAS is measured through it.

import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    device: { type: "string", default: "cpu" },
    peer: { type: "string" },
    variants: { type: "string", default: "." },
    json: { type: "string" },
    list: { type: "boolean", default: false },
    threads: { type: "string", default: String(availableParallelism()) },
    rounds: { type: "string", default: "12" },
    seconds: { type: "string", default: "2" },
    headline: { type: "boolean", default: false },
    peers: { type: "string", default: "headline" },
    markdown: { type: "string" },
    tiny: { type: "boolean", default: false },
    from: { type: "string" },
  },
});

const filter = new RegExp(positionals.join("|") || ".");
const variants = new RegExp(values.variants);
const common = { filter, variants, peer: values.peer ?? null, json: values.json ?? null, list: values.list };

/** Exits with words. */
function refuse(message: string): never {
  console.error(`bench: ${message}`);
  process.exit(2);
}

if (values.device === "cpu") {
  const { runCpu } = await import("./cpu_run.ts");
  process.exitCode = await runCpu({ ...common, threads: Number(values.threads), rounds: Number(values.rounds) });
} else if (/^cuda(:\d+)?$/.test(values.device)) {
  const { peers, headline, tiny } = values;
  if (peers !== "headline" && peers !== "all" && peers !== "none") refuse(`--peers must be headline, all or none, found "${peers}"`);
  const seconds = Number(values.seconds);
  if (!(seconds > 0)) refuse(`--seconds must be a positive number, found "${values.seconds}"`);
  const { runGpu } = await import("./gpu/run.ts");
  const { EsftError } = await import("../lib/errors.ts");
  process.exitCode = await runGpu({
    ...common,
    device: values.device as "cuda",
    seconds,
    headline,
    peers,
    markdown: values.markdown ?? null,
    tiny,
    from: values.from?.split(",") ?? null,
  }).catch((error: unknown) => {
    if (error instanceof EsftError) return refuse(error.message);
    throw error;
  });
} else refuse(`--device must be cpu, cuda or cuda:N, found "${values.device}"`);
