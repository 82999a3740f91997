// The guard of lib must be able to fail: what it is there for is planted into a copy of lib, many at once, since a check takes a second.
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { checkHouse } from "../../scripts/check-house.ts";

let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "esft-house-"));
  cpSync("lib", join(root, "lib"), { recursive: true });
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

const write = (file: string, text: string): void => writeFileSync(join(root, "lib", file), text);
/** Adds a line to a file; its number. */
function plant(file: string, text: string): number {
  const before = readFileSync(join(root, "lib", file), "utf8");
  write(file, `${before}${text}\n`);
  return before.split("\n").length;
}

describe("rules of the house", () => {
  it("has nothing against lib", async () => {
    expect(await checkHouse(".")).toEqual([]);
  });

  it("finds a circle, by whatever form of import", async () => {
    const forms = {
      value: 'import { b } from "./B";\nexport const a = (): unknown => b;',
      type: 'import type { B } from "./B";\nexport type A = B;',
      inline: 'export type A = import("./B").B;',
      export: 'export * from "./B";',
      later: 'export const a = async (): Promise<unknown> => import("./B");',
    };
    for (const [name, text] of Object.entries(forms)) {
      write(`files/${name}_a.ts`, text.replace("./B", `./${name}_b.ts`));
      write(`files/${name}_b.ts`, `import "./${name}_a.ts";\nexport const b = 1;\nexport type B = number;\n`);
    }
    expect((await checkHouse(root)).sort()).toEqual(
      Object.keys(forms)
        .sort()
        .map((name) =>
          expect.stringContaining(`circle lib/files/${name}_a.ts → lib/files/${name}_b.ts → lib/files/${name}_a.ts: each file needs`),
        ),
    );
  });

  it("finds an import of what stands above, or of what a part may not know", async () => {
    const arrows: [file: string, text: string, target: string, why: string][] = [
      [
        "model/spec.ts",
        'import type { Adapter } from "../adapter/adapter.ts";',
        "adapter/adapter.ts",
        '"model/spec" stands below "adapter"',
      ],
      ["model/layers/norm.ts", 'export * from "../transformer.ts";', "model/transformer.ts", 'stands below "model/transformer"'],
      ["ops/dense.ts", 'export type X = import("../train/schedule.ts").Schedule;', "train/schedule.ts", 'stands below "train"'],
      ["train/schedule.ts", 'export const x = async () => import("../cli/terminal.ts");', "cli/terminal.ts", 'stands below "cli"'],
      ["files/json.ts", 'export * from "../text/python_json.ts";', "text/python_json.ts", '"files" stands below "text"'],
      ["text/python_json.ts", 'import "../data/shuffle.ts";', "data/shuffle.ts", '"text" stands below "data"'],
      ["data/shuffle.ts", 'import "../native.ts";', "native.ts", '"data" stands below "native"'],
      ["experts/select.ts", 'import type {} from "../methods/method.ts";', "methods/method.ts", 'stands below "methods"'],
      ["native.ts", 'export * from "./files/hash.ts";', "files/hash.ts", '"native" may not know "files", only errors'],
      ["data/flags.ts", 'export * from "../model/families/config.ts";', "model/families/config.ts", "only lib/model/families/index.ts is"],
    ];
    for (const [file, text] of arrows) plant(file, text);
    const found = (await checkHouse(root)).filter((line) => line.startsWith("arrow"));
    for (const [file, , target, why] of arrows)
      expect(
        found.filter((line) => line.startsWith(`arrow lib/${file} → lib/${target}: `)),
        file,
      ).toEqual(expect.arrayContaining([expect.stringContaining(why)]));
  });

  it("finds names of families and tensors outside the families", async () => {
    const names: [text: string, what: string][] = [
      ['export const a = (name: string): boolean => name === "olmoe";', 'spells the family "olmoe"'],
      ["export const b = /^DeepSeek-V2/;", 'spells the family "deepseek_v2"'],
      ["export const isDeepseek = true;", 'spells the family "deepseek_v2"'],
      ["export const c = (n: number): string => `olmoe-${n}`;", 'spells the family "olmoe"'],
      ['export const d = (s: { modelType: string }): boolean => s.modelType === "none";', 'branches on a family: s.modelType === "none"'],
      [
        "export const e = (i: number): string => `layers.${i}.self_attn.q_proj.weight`;",
        'spells names of tensors: ".self_attn.q_proj.weight"',
      ],
      ['export const f = "model.experts.3.w1";', 'spells names of tensors: "model.experts.3.w1"'],
      ["export const g = /\\.experts\\.(\\d+)\\./;", "spells names of tensors"],
    ];
    const expected = names.map(([text, what]) => `name lib/train/schedule.ts: line ${plant("train/schedule.ts", text)} ${what}`);
    plant("train/schedule.ts", "// As OLMoE's q_proj in deepseek-ai/DeepSeek-V2.");
    plant("train/schedule.ts", 'export const h = "esft train --model ./OLMoE-1B-7B --experts law.experts.json";');
    const found = await checkHouse(root);
    expect(found).toEqual(expect.arrayContaining(expected.map((start) => expect.stringContaining(start))));
    expect(found).toHaveLength(expected.length);
  });

  it("asks for a line for a new part", async () => {
    write("planted.ts", 'import "./errors.ts";\n');
    expect(await checkHouse(root)).toEqual(["part lib/planted.ts: belongs to no part of scripts/house-rules.ts; give it a line"]);
  });
});
