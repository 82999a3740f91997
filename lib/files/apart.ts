// Where output may go: never to where its input lies, whatever symlinks and dots the two paths are written with.
import { readdir, realpath } from "node:fs/promises";
import { basename, dirname, join, resolve, sep } from "node:path";
import { ConfigError } from "../errors.ts";
import { ioError } from "../task.ts";

/** The real path of what may not be there yet: of the nearest folder that is, and the rest. */
async function realPath(path: string): Promise<string> {
  const absolute = resolve(path);
  try {
    return await realpath(absolute);
  } catch (error) {
    const parent = dirname(absolute);
    const { code } = error as NodeJS.ErrnoException;
    if (parent === absolute || (code !== "ENOENT" && code !== "ENOTDIR")) throw ioError(error, `cannot find ${path}`, { file: path });
    return join(await realPath(parent), basename(absolute));
  }
}

/** Both are real and absolute. */
const holds = (folder: string, path: string): boolean => path.startsWith(folder.endsWith(sep) ? folder : `${folder}${sep}`);

/**
 * For a folder that is written: it is not `input`, does not hold it, and does not lie inside unless `inside`.
 * @param what of the message: "the model"
 * @throws ConfigError
 */
export async function requireApart(output: string, input: string, what: string, key = "outDir", inside = false): Promise<void> {
  const [out, kept] = [await realPath(output), await realPath(input)];
  const fault = out === kept ? "is the folder of" : !inside && holds(kept, out) ? "lies inside" : holds(out, kept) ? "holds" : null;
  if (fault !== null)
    throw new ConfigError(
      `expected an output folder apart from ${what} ${input}, found ${output}, which ${fault} ${what}; choose another folder`,
      {
        where: { key, file: output },
      },
    );
}

/** For a file that is written: it does not lie in the folder of a model, however deep. @throws ConfigError */
export async function requireOutsideModels(output: string): Promise<void> {
  const path = await realPath(output);
  for (let folder = dirname(path); folder !== dirname(folder); folder = dirname(folder)) {
    const names = await readdir(folder).catch((): string[] => []);
    if (names.includes("config.json") && names.some((n) => /\.safetensors(?:\.index\.json)?$/.test(n)))
      throw new ConfigError(`expected an output file outside of models, found ${output} in the model ${folder}; choose another place`, {
        where: { key: "output", file: output },
      });
  }
}
