// Plans as YAML files: faults are told with the line that they stand in.

import { ConfigError } from "../errors.ts";
import { readYaml } from "../files/yaml.ts";
import { parsePlan } from "./plan.ts";
import type { Plan } from "./plan.ts";

/** @throws ConfigError with file, line and key · IoError */
export async function readPlan(file: string): Promise<Plan> {
  const { value, lineOf } = await readYaml(file);
  try {
    return parsePlan(value);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    const key = typeof error.where["key"] === "string" ? error.where["key"] : "";
    const line = lineOf(key.split(".")) ?? 1;
    throw new ConfigError(`${file}:${line}: ${error.message}`, { where: { ...error.where, file, line }, cause: error });
  }
}
