// What errors have in common: words that a hostile file cannot use against the reader. No GPU.
// Alone: npx vitest run test/errors.test.ts

import { describe, expect, it } from "vitest";
import { LayoutError } from "../lib/errors.ts";

describe("a message", () => {
  it("shows control characters instead of sending them to the terminal", () => {
    const { message } = new LayoutError('x.safetensors: tensor "\u001b[2J\u0000\u202ea\u0085\u2066": é\n\tnext');
    expect(message).toBe('x.safetensors: tensor "\\u001b[2J\\u0000\\u202ea\\u0085\\u2066": é\n\tnext');
  });

  it("has at most a screen, whatever is quoted in it", () => {
    const { message } = new LayoutError(`x.json: expected a file, found "${"a".repeat(100_000)}"; rename it`);
    expect(message.length).toBeLessThan(4000);
    expect(message).toMatch(/^x\.json: expected a file, found "a+ … a+"; rename it$/);
    const whole = "b".repeat(4000);
    expect(new LayoutError(whole).message).toBe(whole);
  });
});
