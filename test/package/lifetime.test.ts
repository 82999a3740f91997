// The addon in worker threads, at the end of a process, and its memory. Every scene runs in its own process.

import { expect, it } from "vitest";
import { runProgram } from "./programs/run.ts";

it("worker.terminate() during an op leaves the process and the addon intact", async () => {
  const ended = await runProgram("terminate.cjs");
  expect(ended).toMatchObject({ code: 0, signal: null, stdout: "after termination: 64" });
});

it.each([
  ["exit", 7],
  ["throw", 1],
  ["return", 0],
])("a process that ends by %s while ops are pending ends with status %i", async (how, code) => {
  expect(await runProgram("exit.cjs", [how])).toMatchObject({ code, signal: null });
});

it("dispose() of a device with pending work rejects that work", async () => {
  const ended = await runProgram("exit.cjs", ["dispose"]);
  expect(ended).toMatchObject({ code: 0, signal: null });
  expect(ended.stdout).toMatch(/^rejected: .*disposed/);
});

it("a loop of alloc and dispose keeps its memory bounded; the garbage collector is a safety net", async () => {
  const disposed = await runProgram("memory.cjs", ["dispose"]);
  expect(disposed).toMatchObject({ code: 0, signal: null });
  expect(Number(disposed.stdout)).toBeLessThan(200);
  const collected = await runProgram("memory.cjs", ["collect"]);
  expect(collected).toMatchObject({ code: 0, signal: null });
  expect(Number(collected.stdout)).toBeLessThan(800); // of 2400 MB allocated
});
