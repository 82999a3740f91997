import { homedir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { snapshotOf } from "../../lib/hub/layout.ts";
import { hubReference, shownReference } from "../../lib/hub/reference.ts";
import { hubSettings, hubToken } from "../../lib/hub/settings.ts";

describe("a model's name on the hub", () => {
  it.each([
    ["allenai/OLMoE-1B-7B-0924", "allenai/OLMoE-1B-7B-0924", "main"],
    ["a/b@v1.0", "a/b", "v1.0"],
    ["a/b_c.d@refs/pr/3", "a/b_c.d", "refs/pr/3"],
    ["a/b@main", "a/b", "main"],
  ])("%s", (word, id, revision) => {
    expect(hubReference(word)).toEqual({ id, revision });
  });

  it.each(
    ["gpt2", "./a/b", "/a/b", "../a", "a/b/c", "a/", "a/b@", "a/b@../../x", "a/b@x..y", "a/.b", "a/b.", "a--b/c", "a/b c", "~/a", "a\\b/c", "a/b@/x", "a/b@x/", `a/${"b".repeat(100)}`, "a/b@x\n", "a/b\n"], // prettier-ignore
  )("%j has another form", (word) => {
    expect(hubReference(word)).toBe(null);
  });

  it("is shown as it was written", () => {
    for (const word of ["a/b", "a/b@v1"]) expect(shownReference(hubReference(word)!)).toBe(word);
  });

  it("is told by the path of a snapshot", () => {
    const commit = "ab".repeat(20);
    expect(snapshotOf(`/x/hub/models--a--b-c/snapshots/${commit}`)).toEqual({ id: "a/b-c", commit });
    expect(snapshotOf(`/x/hub/models--a--b/snapshots/${commit}/`)).toEqual({ id: "a/b", commit });
    for (const dir of [`/x/models--a--b/${commit}`, `/x/models--a/snapshots/${commit}`, "/x/models--a--b/snapshots/main"])
      expect(snapshotOf(dir)).toBe(null);
  });
});

describe("the environment", () => {
  it("says where the cache lies, as Python's library reads it", () => {
    expect(hubSettings({})).toMatchObject({ cache: join(homedir(), ".cache/huggingface/hub"), endpoint: "https://huggingface.co", offline: false }); // prettier-ignore
    expect(hubSettings({ XDG_CACHE_HOME: "/c" }).cache).toBe("/c/huggingface/hub");
    expect(hubSettings({ HF_HOME: "~/h", XDG_CACHE_HOME: "/c" })).toMatchObject({ cache: join(homedir(), "h/hub"), tokenFile: join(homedir(), "h/token") }); // prettier-ignore
    expect(hubSettings({ HF_HOME: "/h", HUGGINGFACE_HUB_CACHE: "/old" }).cache).toBe("/old");
    expect(hubSettings({ HF_HUB_CACHE: "/new", HUGGINGFACE_HUB_CACHE: "/old" }).cache).toBe("/new");
    expect(hubSettings({ HF_ENDPOINT: "https://mirror.example/hf/" }).endpoint).toBe("https://mirror.example/hf");
    for (const word of ["1", "ON", "true"]) expect(hubSettings({ HF_HUB_OFFLINE: word }).offline).toBe(true);
    expect(hubSettings({ HF_HUB_OFFLINE: "0" }).offline).toBe(false);
    expect(() => hubSettings({ HF_ENDPOINT: "huggingface.co" })).toThrow(/^HF_ENDPOINT: expected an address/);
  });

  it("a token that cannot be one is refused, and not told", async () => {
    const settings = hubSettings({ HF_HOME: "/nowhere" });
    expect(await hubToken(settings, {})).toBe(null);
    expect(await hubToken(settings, { HF_TOKEN: " hf_x\n" })).toBe("hf_x");
    const refused = await hubToken(settings, { HF_TOKEN: "hf_geheim\nX: y" }).catch((error: Error) => error.message);
    expect(refused).toMatch(/^HF_TOKEN: expected a token/);
    expect(refused).not.toContain("geheim");
  });
});
