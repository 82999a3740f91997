// Output beside paths that are not there or cannot be found, and files inside of models. No GPU.
// Run alone: npx vitest run test/files/apart.test.ts
import { mkdirSync, mkdtempSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { ConfigError, IoError } from "../../lib/errors.ts";
import { requireApart, requireOutputFile } from "../../lib/files/apart.ts";
import { tempDir } from "../support/fixture.ts";

const root = tempDir();
const fresh = () => mkdtempSync(join(root, "a-"));

describe("output", () => {
  it("beside a path that cannot be found is an IoError with the path", async () => {
    const dir = fresh();
    symlinkSync(join(dir, "loop"), join(dir, "loop"));
    for (const path of ["loop", "loop/x"]) {
      await expect(requireApart(join(dir, path), dir, "the model")).rejects.toBeInstanceOf(IoError);
      await expect(requireApart(join(dir, path), dir, "the model")).rejects.toMatchObject({ where: { file: join(dir, path), errno: "ELOOP" } }); // prettier-ignore
    }
    await expect(requireApart(join(dir, "loop"), dir, "the model")).rejects.toThrow(`cannot find ${join(dir, "loop")}: `);
    await expect(requireOutputFile(join(dir, "x"), [""])).rejects.toThrow(/^input: expected a path/);
    for (const [out, input] of [["", dir], [dir, ""]] as const) await expect(requireApart(out, input, "the model")).rejects.toBeInstanceOf(ConfigError); // prettier-ignore
    await expect(requireOutputFile("", [])).rejects.toMatchObject({ where: { key: "output" } });
  });

  it("below a file or a dead link is apart from both", async () => {
    const dir = fresh();
    writeFileSync(join(dir, "file"), "");
    symlinkSync(join(dir, "nothing"), join(dir, "dead"));
    mkdirSync(join(dir, "model"));
    for (const out of ["file/x/y", "dead", "dead/x"]) await requireApart(join(dir, out), join(dir, "model"), "the model");
    await expect(requireApart(join(dir, "model/new/../x"), join(dir, "model"), "the model")).rejects.toThrow(/lies inside/);
    await expect(requireApart(join(dir, "new/deep"), join(dir, "new"), "the model")).rejects.toThrow(/lies inside/); // neither is there
    await expect(requireApart(join(dir, "new"), join(dir, "new/deep"), "the model")).rejects.toThrow(/holds/);
  });

  it("through a symlink is where it leads, also to what is not there yet", async () => {
    const dir = fresh();
    mkdirSync(join(dir, "real"));
    symlinkSync(join(dir, "real"), join(dir, "link"));
    await expect(requireApart(join(dir, "link/new/x"), join(dir, "real/new/x"), "the model")).rejects.toThrow(/is the folder of/);
    await requireApart(join(dir, "link/new"), join(dir, "real/other"), "the model");
  });

  it("is none of the files that are read, and may be another one", async () => {
    const dir = fresh();
    for (const name of ["a", "b"]) writeFileSync(join(dir, name), "");
    await requireOutputFile(join(dir, "a"), [join(dir, "b")]);
    const [a] = [join(dir, "a")];
    await expect(requireOutputFile(a, [join(dir, "b"), a])).rejects.toThrow(
      `expected an output file apart from what is read, found ${a}, which is read; choose another place`,
    );
    await requireOutputFile(join(dir, "new/deep/x.json"), []);
  });

  it("for a file names the file and the folder of the model", async () => {
    for (const [files, refused] of [
      [["config.json"], false],
      [["model.safetensors"], false],
      [["config.json", "model.safetensors.txt"], false],
      [["config.json", "x.safetensors"], true],
      [["config.json", "x.safetensors.index.json"], true],
    ] as const) {
      const model = join(fresh(), "m");
      mkdirSync(join(model, "a"), { recursive: true });
      for (const name of files) writeFileSync(join(model, name), "");
      const out = join(model, "a/x.json");
      const asked = requireOutputFile(out, []);
      if (!refused) await asked;
      else await expect(asked).rejects.toMatchObject({ code: "ERR_CONFIG", message: `expected an output file outside of models, found ${out} in the model ${model}; choose another place`, where: { key: "output", file: out } }); // prettier-ignore
    }
  });
});
