// Looks for a python with torch that sees the GPU, while the first stages run: the first import of torch takes many seconds, and it warms
// the files that the peer reads.

import { spawn } from "node:child_process";
import type { ChildProcess } from "node:child_process";

export interface FoundPython {
  /** Null: none. */
  readonly python: string | null;
  readonly words: string;
}

const program = `
import json, sys, torch, transformers
ok = torch.cuda.is_available()
print(json.dumps({"torch": torch.__version__, "transformers": transformers.__version__, "cuda": torch.version.cuda, "sees": ok}))
sys.exit(0 if ok else 1)`;

let running: ChildProcess | null = null;

function ask(python: string): Promise<string | null> {
  return new Promise((resolve) => {
    let text = "";
    running = spawn(python, ["-c", program], { stdio: ["ignore", "pipe", "ignore"] });
    running.stdout?.on("data", (b: Buffer) => void (text += b.toString()));
    running.on("error", () => resolve(null));
    running.on("close", (code) => resolve(code === 0 ? text.trim() : null));
  });
}

export async function findPython(candidates: readonly (string | undefined)[]): Promise<FoundPython> {
  const began = performance.now();
  for (const python of candidates) {
    if (python === undefined || python === "") continue;
    const said = await ask(python);
    if (said === null) continue;
    const { torch, transformers, cuda } = JSON.parse(said) as Record<string, string>;
    const seconds = ((performance.now() - began) / 1000).toFixed(0);
    return { python, words: `${python}: torch ${torch} (CUDA ${cuda}), transformers ${transformers}; imported in ${seconds} s` };
  }
  return { python: null, words: "no python with torch and transformers that sees the GPU (PYTHON names one)" };
}

/** Ends a search that is under way. */
export function stopSearch(): void {
  running?.kill("SIGKILL");
}
