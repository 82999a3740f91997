// DEBUG=esft:TOPIC tells on stderr what was decided, and nothing without it. No GPU. Alone: npx vitest run test/cli/debug.test.ts

import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { expect, it } from "vitest";
import { embedded } from "../support/embedded.ts";
import { projectRoot } from "./support.ts";

const inspect = (topics: string): string =>
  spawnSync(process.execPath, ["--import", "tsx", join(projectRoot, "lib/cli/main.ts"), "inspect", embedded], {
    cwd: projectRoot,
    env: { ...process.env, DEBUG: topics },
    encoding: "utf8",
  }).stderr;

it("tells of the topics that are asked for alone", () => {
  expect(inspect("esft:files")).toMatch(/esft:files .*embedded: 1 weight files \(model\.safetensors\)/);
  expect(inspect("esft:memory,other")).not.toContain("esft:");
  expect(inspect("")).not.toContain("esft:");
});
