// llama.cpp through node-llama-cpp as a process that answers lines: {"batch", "prompt", "tokens"} → {"first", "gaps"}: milliseconds to
// the first token, and between tokens (of a batch: of its rounds). Stands beside no dependency of ours: its package is taken from the
// folder in ESFT_LLAMA (npm install node-llama-cpp there).   node bench/peer/llama_decode.mjs FILE.gguf THREADS

import { createRequire } from "node:module";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [, , file, threads] = process.argv;
const require = createRequire(join(process.env.ESFT_LLAMA ?? process.cwd(), "package.json"));
const { getLlama } = await import(pathToFileURL(require.resolve("node-llama-cpp")).href);
const llama = await getLlama({ gpu: false, build: "never", maxThreads: Number(threads), logLevel: "error" });
const model = await llama.loadModel({ modelPath: file, useMmap: true });
const vocab = 8192;
const prompt = (n, seed) => Array.from({ length: n }, (_, i) => ((i + 1) * 7919 + seed * 104729) % vocab);

async function run({ batch, prompt: length, tokens }) {
  const context = await model.createContext({
    threads: Number(threads),
    sequences: batch,
    contextSize: Math.max(256, length + tokens + 8),
    batchSize: 512,
    flashAttention: true, // prettier-ignore
  });
  const sequences = Array.from({ length: batch }, () => context.getSequence());
  const begin = performance.now();
  const ends = Array.from({ length: tokens }, () => []);
  await Promise.all(
    sequences.map(async (sequence, b) => {
      const ids = prompt(length, b);
      let next = ids.at(-1);
      if (length > 1) await sequence.evaluateWithoutGeneratingNewTokens(ids.slice(0, -1));
      for (let t = 0; t < tokens; t++) {
        for await (const id of sequence.evaluate([next], { temperature: 0, yieldEogToken: true })) {
          next = id;
          break;
        }
        ends[t].push(performance.now());
      }
    }),
  );
  const rounds = ends.map((of) => Math.max(...of));
  await context.dispose();
  return { first: rounds[0] - begin, gaps: rounds.slice(1).map((t, i) => t - rounds[i]) };
}

process.stdout.write('{"ready":true}\n');
for await (const line of createInterface({ input: process.stdin })) {
  const answer = await run(JSON.parse(line)).catch((error) => ({ error: String(error) }));
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
process.exit(0);
