// Arguments of the functions of adapters as plain JavaScript may give them: what is refused names its place.
// Run alone: npx vitest run test/adapter/arguments.test.ts
import { join } from "node:path";
import { expect, it } from "vitest";
import type { LoadAdapterOptions } from "../../lib/adapter/adapter.ts";
import { Adapter } from "../../lib/adapter/adapter.ts";
import { openAdapter, saveEsftAdapter } from "../../lib/adapter/esft_layout.ts";
import { mergeAdapter } from "../../lib/adapter/merge.ts";
import { verifyMerge } from "../../lib/adapter/verify_merge.ts";
import { fresh, makeAdapter, makeBase } from "./support.ts";

it("names the argument that is not what it must be", async () => {
  const base = await makeBase();
  const adapter = await makeAdapter(base);
  const dir = join(fresh(), "x");
  const no = 5 as never;
  const noBase = { base: {} } as LoadAdapterOptions;
  const cases: [key: string, expected: string, call: () => unknown][] = [
    ["new Adapter: init", "an object of options", () => new Adapter(no)],
    ["new Adapter: init", "an object with method and base", () => new Adapter({ base: adapter.base } as never)],
    ["new Adapter: init", "an object with method and base", () => new Adapter({ method: adapter.method } as never)],
    ["adapter.with: changes", "an object of options", () => adapter.with(no)],
    ["adapter.read: key", "a string", () => adapter.read(no)],
    ["checkBase: base", "an opened checkpoint", () => adapter.checkBase(no)],
    ["checkBase: options", "an object of options", () => adapter.checkBase(base, no)],
    ["adapter.save: dir", "a path", () => adapter.save(no)],
    ["adapter.save: options", "an object of options", () => adapter.save(dir, no)],
    ["Adapter.load: dir", "a path", () => Adapter.load(no)],
    ["Adapter.load: options", "an object of options", () => Adapter.load(dir, no)],
    ["Adapter.load: options.base", "an opened checkpoint", () => Adapter.load(dir, noBase)],
    ["openAdapter: dir", "a path", () => openAdapter("")],
    ["openAdapter: options", "an object of options", () => openAdapter(dir, no)],
    ["openAdapter: options.base", "an opened checkpoint", () => openAdapter(dir, noBase)],
    ["saveEsftAdapter: adapter", "an object of class Adapter", () => saveEsftAdapter(no, dir)],
    ["saveEsftAdapter: dir", "a path", () => saveEsftAdapter(adapter, no)],
    ["saveEsftAdapter: options", "an object of options", () => saveEsftAdapter(adapter, dir, no)],
    ["mergeAdapter: base", "an opened checkpoint", () => mergeAdapter(no, adapter, dir)],
    ["mergeAdapter: adapter", "an object of class Adapter", () => mergeAdapter(base, no, dir)],
    ["mergeAdapter: outDir", "a path", () => mergeAdapter(base, adapter, no)],
    ["mergeAdapter: options", "an object of options", () => mergeAdapter(base, adapter, dir, no)],
    ["verifyMerge: base", "an opened checkpoint", () => verifyMerge(no, adapter, dir)],
    ["verifyMerge: adapter", "an object of class Adapter", () => verifyMerge(base, no, dir)],
    ["verifyMerge: mergedDir", "a path", () => verifyMerge(base, adapter, no)],
    ["verifyMerge: options", "an object of options", () => verifyMerge(base, adapter, dir, no)],
  ];
  for (const [key, expected, call] of cases) {
    const error = await (async () => call())().catch((e: unknown) => e);
    expect(error, key).toMatchObject({ code: "ERR_CONFIG", where: { key } });
    expect((error as Error).message).toContain(`${key}: expected ${expected}`);
  }
});
