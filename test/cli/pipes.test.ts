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

it("- is standard input, a pipe or a file, in any format; Parquet too, which is read from its end", () => {
  const program = join(projectRoot, "lib/cli/main.ts");
  const run = (line: string) => execFileSync("bash", ["-c", line.replace("ESFT", `"${process.execPath}" --import tsx "${program}"`)], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"], timeout: 50_000 }); // prettier-ignore
  expect(run(`printf '%s' '${row.repeat(3)}' | gzip | ESFT preview examples/embedded - --json`)).toContain('"line": 3');
  expect(run("ESFT preview examples/embedded - --format csv -n 2 < <(printf 'prompt,completion\nsay,this\n')")).toMatch(
    /^line 2 .*\n.*s\|ay/,
  );
  expect(run('ESFT preview examples/embedded - --format json < <(echo \'[{"prompt": "x", "completion": "y"}]\')')).toMatch(/^row 1 /);
  expect(run("cat test/fixtures/data/alpaca.parquet | ESFT preview examples/embedded - --format parquet -n 9")).toMatch(/row 3 \(alpaca\)/);
  const twice = run("ESFT preview examples/embedded - --lint 2>&1 < test/fixtures/data/alpaca.jsonl || echo ended");
  expect(twice).toMatch(/- is standard input, and this command reads the rows twice; write them to a file first\nended/);
});
