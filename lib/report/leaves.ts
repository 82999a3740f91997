// Options as rows of a table: nested keys with their paths.

import { isPlain } from "../options.ts";
import type { Row } from "./content.ts";

/** { optimizer: { lr: 1 } } → optimizer.lr: 1 */
export function leaves(value: unknown, path: string): Row[] {
  if (isPlain(value) && Object.keys(value).length > 0)
    return Object.entries(value).flatMap(([key, v]) => leaves(v, path === "" ? key : `${path}.${key}`));
  if (path === "") return [];
  return [{ key: path, value: typeof value === "string" ? value : (JSON.stringify(value) ?? "") }];
}
