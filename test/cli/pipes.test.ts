// Rows that come out of a shell: a process substitution, standard input. No GPU.
// Run alone: npx vitest run test/cli/pipes.test.ts
import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { expect, it } from "vitest";
import { projectRoot } from "./support.ts";

const row = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n';

it("rows of a process substitution and of standard input, also where nothing is written", () => {
  const program = join(projectRoot, "lib/cli/main.ts");
  const run = (line: string) => execFileSync("bash", ["-c", line.replace("ESFT", `"${process.execPath}" --import tsx "${program}"`)], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"], timeout: 50_000 }); // prettier-ignore
  expect(run(`ESFT preview examples/embedded <(printf '%s' '${row.trim()}')`)).toContain("b");
  expect(run(`printf '%s' '${row.repeat(3)}' | ESFT preview examples/embedded /dev/stdin --json`)).toContain('"line": 3');
  expect(run("ESFT preview examples/embedded <(true) || echo ended")).toMatch(/^$|ended/);
});
