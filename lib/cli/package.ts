// The installed package as files: where it lies and what its package.json says. Read without the addon, so that esft doctor and
// esft build work where that does not load.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

/** The folder with package.json: lib/cli and dist/cli lie equally deep. */
export const root = fileURLToPath(new URL("../..", import.meta.url));

export function packageJson(): { readonly version: string; readonly engines: { readonly node: string } } {
  return JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { version: string; engines: { node: string } };
}
