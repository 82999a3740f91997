// Where output may go: never to where its input lies, whatever symlinks and dots the two paths are written with.
import { readdir, realpath, stat } from "node:fs/promises";
import { dirname, join, parse, resolve, sep } from "node:path";
import { pathArgument } from "../arguments.ts";
import { ConfigError } from "../errors.ts";
import { ioError } from "../task.ts";

/** The real path of what may not be there yet: of the deepest folder that is, found from the root on, and the rest. */
async function realPath(path: string, key: string): Promise<string> {
  const absolute = resolve(pathArgument(path, key));
  const { root } = parse(absolute);
  const parts = absolute.slice(root.length).split(sep);
  let real = root;
  for (const [i, part] of parts.entries()) {
    try {
      real = await realpath(join(real, part));
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code !== "ENOENT" && code !== "ENOTDIR") throw ioError(error, `cannot find ${path}`, { file: path });
      return join(real, ...parts.slice(i));
    }
  }
  return real;
}

/** Both are real and absolute. */
const holds = (folder: string, path: string): boolean => path.startsWith(folder.endsWith(sep) ? folder : `${folder}${sep}`);

/**
 * For a folder that is written: it is not `input`, does not hold it, and does not lie inside unless `inside`.
 * @param what of the message: "the model"
 * @throws ConfigError
 */
export async function requireApart(output: string, input: string, what: string, key = "outDir", inside = false): Promise<void> {
  const [out, kept] = [await realPath(output, key), await realPath(input, what)];
  const fault = out === kept ? "is the folder of" : !inside && holds(kept, out) ? "lies inside" : holds(out, kept) ? "holds" : null;
  if (fault !== null)
    throw new ConfigError(
      `expected an output folder apart from ${what} ${input}, found ${output}, which ${fault} ${what}; choose another folder`,
      {
        where: { key, file: output },
      },
    );
}

/**
 * For a file that is written: it is none of the files it is made from (by path or by hard link), and does not lie in the folder of a
 * model, however deep.
 * @throws ConfigError
 */
export async function requireOutputFile(output: string, inputs: readonly string[]): Promise<void> {
  const path = await realPath(output, "output");
  const fail = (expected: string, found: string): never => {
    throw new ConfigError(`expected an output file ${expected}, found ${found}; choose another place`, {
      where: { key: "output", file: output },
    });
  };
  const there = await stat(path).catch(() => null);
  for (const input of inputs) {
    const read = await stat(input).catch(() => null);
    const same = there !== null && read !== null && there.ino === read.ino && there.dev === read.dev;
    if (same || path === (await realPath(input, "input"))) fail("apart from what is read", `${output}, which is read`);
  }
  for (let folder = dirname(path); folder !== dirname(folder); folder = dirname(folder)) {
    const names = await readdir(folder).catch((): string[] => []);
    if (names.includes("config.json") && names.some((n) => /\.safetensors(?:\.index\.json)?$/.test(n)))
      fail("outside of models", `${output} in the model ${folder}`);
  }
}
