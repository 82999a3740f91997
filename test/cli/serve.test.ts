// esft serve as a process: it says where it listens, answers, and ends after a signal with what was on its way finished. No GPU.
// Alone: npx vitest run test/cli/serve.test.ts

import OpenAI from "openai";
import { describe, expect, it } from "vitest";
import { cli, spawnCli } from "./support.ts";
import { until } from "../serve/support.ts";

const embedded = "examples/embedded";

describe("esft serve", () => {
  it("answers, and finishes what is on its way after SIGTERM", async () => {
    const server = spawnCli(["serve", embedded, "--port", "0", "--threads", "1", "--token", "word"]);
    const says = (): string => server.output();
    await until(() => says().includes("listening on ") || !server.running(), 60_000);
    const [, url] = /listening on (http:\/\/127\.0\.0\.1:\d+)\n/.exec(says())!;
    const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "word", maxRetries: 0 });
    expect((await client.models.list()).data.map(({ id }) => id)).toEqual(["embedded"]);
    const stream = await client.completions.create({ model: "embedded", prompt: "The people", n: 4, max_tokens: 300, stream: true });
    let chunks = 0;
    const finished: string[] = [];
    for await (const { choices } of stream) {
      if (++chunks === 1) server.kill("SIGTERM");
      for (const { finish_reason: finish } of choices) if (finish as string | null) finished.push(finish);
    }
    expect(finished).toHaveLength(4);
    expect(await server.done).toMatchObject({ code: 0, signal: null });
  }, 120_000);

  it("refuses what it cannot serve before it listens", async () => {
    for (const [args, code, says] of [
      [["--adapter", "law"], 2, "expected name=dir"],
      [["--port", "70000"], 2, "expected a port"],
      [["--max-queue", "0"], 2, "from 1"],
      [["--adapter", "embedded=out"], 1, "used twice"],
      [["--adapter", "a b=out"], 1, "an adapter's name has letters"],
      [["--adapter", "law=nowhere"], 1, "nowhere"],
      [["--token", "two words"], 1, "the token must have"],
      [["--template", "nowhere.jinja"], 1, "nowhere.jinja"],
      [["--host", "192.0.2.1"], 1, "cannot listen on 192.0.2.1"],
    ] as const) {
      const { code: found, err } = await cli(["serve", embedded, "--port", "0", "--threads", "1", ...args]);
      expect([args, found, err]).toEqual([args, code, expect.stringContaining(says)]);
    }
  });
});
