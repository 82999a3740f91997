// Valid inputs that several formats begin with.

import { readFileSync } from "node:fs";
import { join } from "node:path";

export const families = ["olmoe", "olmoe-gqa-clip", "deepseek-v2", "deepseek-v2-lite"];

export const readJson = (path: string): Record<string, unknown> => JSON.parse(readFileSync(path, "utf8")) as Record<string, unknown>;
export const readFamily = (family: string): Record<string, unknown> => readJson(join("test/fixtures/families", family, "config.json"));
