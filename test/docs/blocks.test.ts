// Every code block of README.md and docs/ does what it says: commands run on the embedded model in a small copy of a clone, with fewer
// steps and rows; TypeScript is type-checked and run; what cannot run says why. No GPU. Alone: npx vitest run test/docs/blocks.test.ts

import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { afterAll, afterEach, beforeEach, describe, expect, it } from "vitest";
import { parse } from "yaml";
import { parsePlan } from "../../lib/compare/plan.ts";
import { eventSchemas } from "../../lib/train/run_log.ts";
import { cli, projectRoot } from "../cli/support.ts";
import { blocksOf, commandsOf, saysLines, smallFlags, smallKeys, wordsOf } from "./blocks.ts";
import type { Block } from "./blocks.ts";
import { makeWorkspace } from "./workspace.ts";

const docs = readdirSync(join(projectRoot, "docs"))
  .filter((name) => name.endsWith(".md"))
  .map((name) => `docs/${name}`);
const pages = ["README.md", ...docs];
const textOf = (page: string): string => readFileSync(join(projectRoot, page), "utf8");
const LANGUAGES = ["sh", "ts", "yaml", "json", "text"];
const where = ({ page, line }: Block): string => `${page}:${line}`;
const skipped = ({ mark }: Block): boolean => mark?.kind === "not run";
const tsx = join(projectRoot, "node_modules/tsx/dist/esm/index.mjs");
const library = JSON.stringify(join(projectRoot, "lib/index.ts"));
const home = process.cwd();

interface Printed {
  readonly code: number;
  readonly text: string;
}

/** Carries a page out from its beginning to its end. */
class PageRun {
  private readonly variables = new Map<string, string>();
  private readonly dir: string;
  constructor(dir: string) {
    this.dir = dir;
  }

  async shell(block: Block): Promise<Printed> {
    let text = "";
    for (const command of commandsOf(block.text)) {
      const { code, text: said } = await this.command(command);
      text += said;
      if (code !== 0) return { code, text };
    }
    return { code: 0, text };
  }

  private async command(command: string): Promise<Printed> {
    const [, name, value] = /^(\w+)=(\S*)$/.exec(command) ?? [];
    if (name !== undefined) {
      this.variables.set(name, value!);
      return { code: 0, text: "" };
    }
    return command.startsWith("npx esft ") ? await this.esft(command) : this.bash(command);
  }

  private async esft(command: string): Promise<Printed> {
    const args = smallFlags(wordsOf(command, this.variables).slice(2));
    const { code, out, err } = await cli(args);
    return { code, text: out + err };
  }

  /** Commands of other programs; `npx esft` after a pipe or a variable is a process of its own. */
  private bash(asked: string): Printed {
    const command = asked.replace(/\bnpx esft\b/, `${process.execPath} --import ${tsx} ${join(projectRoot, "lib/cli/main.ts")}`);
    return { code: 0, text: execFileSync("bash", ["-o", "pipefail", "-c", command], { cwd: this.dir, stdio: ["ignore", "pipe", "pipe"], env: { ...process.env, ...Object.fromEntries(this.variables) }, encoding: "utf8" }) }; // prettier-ignore
  }

  typescript(block: Block): Printed {
    const file = join(this.dir, `block-${block.line}.mts`);
    writeFileSync(file, smallKeys(block.text).replaceAll('from "esft"', `from ${library}`));
    const text = execFileSync(process.execPath, ["--import", tsx, file], { cwd: this.dir, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] }); // prettier-ignore
    return { code: 0, text };
  }
}

/** Flags that a command does not have, scripts that package.json does not have. */
async function unknownWords(command: string): Promise<string[]> {
  const words = command.split(/\s+/);
  if (words[0] === "npm" && words[1] === "run")
    return (JSON.parse(textOf("package.json")) as { scripts: Record<string, string> }).scripts[words[2]!] ? [] : [words[2]!];
  if (words[0] !== "npx" || words[1] !== "esft") return [];
  const { code, out } = await cli([words[2]!, "--help"]);
  if (code !== 0) return [words[2]!];
  const flags = words.filter((word) => /^--?[a-z]/.test(word)).map((word) => word.split("=", 1)[0]!);
  return flags.filter((flag) => !new RegExp(`(^|[\\s,])${flag}(?=[\\s,<[])`, "m").test(out));
}

describe.each(pages)("%s", (page) => {
  const blocks = blocksOf(page, textOf(page));
  const files = blocks.filter(({ mark }) => mark?.kind === "file");
  const runs = blocks.filter((block) => !skipped(block) && (block.language === "sh" || (block.language === "ts" && block.mark?.kind !== "types only"))); // prettier-ignore
  let workspace: ReturnType<typeof makeWorkspace>;
  beforeEach(() => (workspace = makeWorkspace()));
  afterEach(() => {
    process.chdir(home);
    workspace.remove();
  });

  it("has blocks whose language is known, and a reason where one is not run", async () => {
    for (const block of blocks) {
      expect(LANGUAGES, where(block)).toContain(block.language);
      if (block.mark?.kind === "not run" || block.mark?.kind === "types only") expect(block.mark.text, where(block)).toMatch(/\w{3}/);
      if (block.language === "yaml") expect(block.mark?.kind, `${where(block)}: which file is it?`).toBe("file");
    }
    for (const block of blocks.filter(skipped)) {
      console.log(`${where(block)} is not run: ${block.mark!.text}`);
      for (const command of commandsOf(block.text)) expect(await unknownWords(command), `${where(block)}: ${command}`).toEqual([]);
    }
  });

  it("has files and lines that their readers accept", () => {
    const shell = blocks.filter(({ language }) => language === "sh").map(({ text }) => text).join("\n"); // prettier-ignore
    for (const { mark, text, ...block } of files) {
      expect(shell, `${page}:${block.line}: no command uses ${mark!.text}`).toContain(mark!.text);
      const value: unknown = block.language === "yaml" ? parse(text) : null;
      if (value !== null && typeof value === "object" && "tasks" in value) parsePlan(value, mark!.text);
    }
    for (const { text, mark } of blocks.filter(({ language, mark: of }) => language === "json" && of?.kind !== "file"))
      for (const line of text.trim().split("\n")) {
        const value = JSON.parse(line) as { type: keyof typeof eventSchemas };
        if (mark?.kind === "events") eventSchemas[value.type].strict().parse(value);
      }
  });

  it.runIf(runs.length > 0)("has commands and programs that do what they say", { timeout: 600_000 }, async () => {
    process.chdir(workspace.dir);
    for (const { mark, text } of files) writeFileSync(mark!.text, `${smallKeys(text)}\n`);
    const run = new PageRun(workspace.dir);
    for (const [i, block] of blocks.entries()) {
      if (!runs.includes(block)) continue;
      const { code, text } = block.language === "sh" ? await run.shell(block) : run.typescript(block);
      expect(code === 0, `${where(block)}: ${text}`).toBe(block.mark?.kind !== "fails");
      const next = blocks[i + 1];
      if (next?.language === "text") expect(saysLines(text, next.text), `${where(next)}: not said by\n${text}`).toBe(true);
      else expect(block.mark?.kind, `${where(block)}: what does it say when it fails?`).not.toBe("fails");
    }
  });
});

describe("TypeScript of all pages", () => {
  const dir = mkdtempSync(join(tmpdir(), "esft-docs-types-"));
  afterAll(() => rmSync(dir, { recursive: true, force: true }));

  it("type-checks against the package", { timeout: 300_000 }, () => {
    for (const page of pages) {
      const programs = blocksOf(page, textOf(page)).filter(({ language }) => language === "ts");
      for (const { line, text } of programs) writeFileSync(join(dir, `${basename(page, ".md")}-${line}.mts`), `${text}\nexport {};\n`);
    }
    const paths = { esft: [join(projectRoot, "lib/index.ts")] };
    const options = { noEmit: true, rootDir: "/", allowImportingTsExtensions: true, typeRoots: [join(projectRoot, "node_modules/@types")], paths }; // prettier-ignore
    writeFileSync(join(dir, "tsconfig.json"), JSON.stringify({ extends: join(projectRoot, "tsconfig.json"), compilerOptions: options, include: ["*.mts", join(projectRoot, "lib/**/*.d.ts")] })); // prettier-ignore
    let said = "";
    try {
      execFileSync(join(projectRoot, "node_modules/.bin/tsc"), ["-p", dir], { encoding: "utf8" });
    } catch (error) {
      said = (error as { stdout: string }).stdout;
    }
    expect(said).toBe("");
  });
});

describe("the test of pages", () => {
  it("notices a flag that is none, in blocks that run and in those that do not", async () => {
    const { dir, remove } = makeWorkspace();
    process.chdir(dir);
    const block = (text: string): Block => ({ page: "x.md", line: 1, language: "sh", text, mark: null });
    const run = new PageRun(dir);
    const good = "npx esft preview ./OLMoE-1B-7B law.jsonl -n 1";
    expect((await run.shell(block(good))).code).toBe(0);
    expect((await run.shell(block(`${good} --lines 2`))).code).toBe(2);
    expect(await unknownWords(good)).toEqual([]);
    expect(await unknownWords(`${good} --lines 2`)).toEqual(["--lines"]);
    expect(await unknownWords("npm run nothing")).toEqual(["nothing"]);
    process.chdir(home);
    remove();
  });

  it("refuses a block without a language and a comment that means nothing", () => {
    expect(() => blocksOf("x.md", "```\nls\n```")).toThrow(/x\.md:1/);
    expect(() => blocksOf("x.md", "<!-- notrun: x -->\n```sh\nls\n```")).toThrow(/expected not run/);
  });

  it("knows links of pages to files that are there", () => {
    for (const page of pages)
      for (const [, target = ""] of textOf(page).matchAll(/\]\(([^)#\s]+)(?:#[^)]*)?\)/g))
        if (!/^https?:/.test(target)) expect(existsSync(join(projectRoot, page, "..", target)), `${page}: ${target}`).toBe(true);
  });
});
