// Fetching models, against a hub on this machine.

import {
  copyFileSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { beforeEach, describe, expect, it } from "vitest";
import { disk, replaceDisk } from "../../lib/files/disk.ts";
import { modelFolder, pullModel } from "../../lib/hub/folder.ts";
import { loadTokenizer, MoeModel, openCheckpoint } from "../../lib/index.ts";
import { tinyOlmoe, writeTinyModel } from "../support/tiny_model.ts";
import { COMMIT, hashOf, withHub } from "./fake_hub.ts";

const here = withHub();
const ID = "tiny/olmoe";
const NOISE = {
  "README.md": "card",
  ".gitattributes": "x",
  "pytorch_model.bin": "pickle",
  "model.gguf": "gguf",
  "consolidated.safetensors": "other weights",
  "onnx/model.onnx": "onnx",
  "original/model.safetensors": "others again",
  "additional_chat_templates/tool_use.jinja": "{{ messages }}",
};
const repo = (...names: string[]): string => here.at("hub", "models--tiny--olmoe", ...names);
const snapshot = (...names: string[]): string => repo("snapshots", COMMIT, ...names);
const weights = (): Buffer => here.hub.models.get(ID)!.files.get("model.safetensors")!;
const blobs = (): string[] => readdirSync(repo("blobs")).sort();
const failure = (work: Promise<unknown>): Promise<Error> => work.then(() => new Error("it did not fail"), (error: Error) => error); // prettier-ignore

beforeEach(async () => {
  await writeTinyModel(here.at("source"), tinyOlmoe);
  here.hub.add(ID, here.at("source"), NOISE);
});

const NEEDED = ["additional_chat_templates/tool_use.jinja", "config.json", "model.safetensors", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"]; // prettier-ignore

describe("a model of the hub", () => {
  it("is fetched into the layout of Python's library, no more than is needed, and opens", async () => {
    const told: { done: number; total: number }[] = [];
    const found = await pullModel(ID, { onProgress: (p) => told.push(p) });
    expect(found).toEqual({ id: ID, dir: snapshot(), commit: COMMIT });
    expect(here.hub.fetched.sort()).toEqual(NEEDED);
    for (const name of NEEDED) {
      const content = here.hub.models.get(ID)!.files.get(name)!;
      expect(lstatSync(snapshot(name)).isSymbolicLink()).toBe(true);
      expect(readlinkSync(snapshot(name))).toBe(`${name.includes("/") ? "../" : ""}../../blobs/${hashOf(name, content)}`);
      expect(readFileSync(snapshot(name)).equals(content)).toBe(true);
    }
    expect(readFileSync(repo("refs/main"), "utf8")).toBe(COMMIT);
    expect(blobs()).toEqual(NEEDED.map((name) => hashOf(name, here.hub.models.get(ID)!.files.get(name)!)).sort());
    expect(told[0]).toMatchObject({ done: 0 });
    expect(told.at(-1)!.done).toBe(told.at(-1)!.total);
    // The small files, then the weights, whose length the index, where there is one, tells.
    expect(told.at(-1)!.total).toBe(weights().length);

    await using model = await MoeModel.fromPretrained(ID);
    expect([model.name, model.revision, model.dir]).toEqual([ID, COMMIT, snapshot()]);
    expect((await openCheckpoint(ID)).dir).toBe(snapshot());
    expect(here.hub.fetched).toHaveLength(NEEDED.length);
  });

  it("in shards, listed over several pages; another revision; its tokenizer alone", async () => {
    const dir = here.at("sharded");
    const { tensors } = await openCheckpoint(here.at("source"));
    const names = [...tensors.keys()];
    mkdirSync(dir);
    for (const name of ["config.json", "tokenizer.json", "tokenizer_config.json"])
      copyFileSync(join(here.at("source"), name), join(dir, name));
    // All tensors in the first shard; the second of a model that another index names is not fetched.
    copyFileSync(here.at("source/model.safetensors"), join(dir, "model-00001-of-00001.safetensors"));
    writeFileSync(join(dir, "model-00002-of-00002.safetensors"), "of another time");
    writeFileSync(join(dir, "model.safetensors.index.json"), JSON.stringify({ weight_map: Object.fromEntries(names.map((name) => [name, "model-00001-of-00001.safetensors"])) })); // prettier-ignore
    const model = here.hub.add("tiny/sharded", dir, NOISE);
    model.revisions.set("refs/pr/1", COMMIT);
    here.hub.page = 2;
    await loadTokenizer("tiny/sharded@refs/pr/1");
    expect(here.hub.fetched.sort()).toEqual(["additional_chat_templates/tool_use.jinja", "config.json", "tokenizer.json", "tokenizer_config.json"]); // prettier-ignore
    const checkpoint = await openCheckpoint("tiny/sharded@refs/pr/1");
    expect(checkpoint.tensors.size).toBe(names.length);
    expect(here.hub.fetched).toContain("model-00001-of-00001.safetensors");
    expect(here.hub.fetched).not.toContain("model-00002-of-00002.safetensors");
    expect(readFileSync(here.at("hub/models--tiny--sharded/refs/refs/pr/1"), "utf8")).toBe(COMMIT);
    const asked = here.hub.asked.length;
    await openCheckpoint(`tiny/sharded@${COMMIT}`);
    expect(here.hub.asked).toHaveLength(asked); // a commit that is there whole
  });

  it("in F16 opens as one on disk", async () => {
    const dir = here.at("half");
    await writeTinyModel(dir, tinyOlmoe, { dtype: "f16" });
    here.hub.add("tiny/half", dir);
    await using model = await MoeModel.fromPretrained("tiny/half");
    expect([...model.checkpoint.tensors.values()].every((t) => t.dtype === "F16")).toBe(true);
    await using local = await MoeModel.fromPretrained(dir);
    const prompt = [1, 5, 9];
    const answers = await Promise.all([model, local].map((m) => m.generate(prompt, { maxTokens: 4, stopIds: [] }).result()));
    expect(answers[0]!.ids).toEqual(answers[1]!.ids);
  });

  it("that moved is fetched anew as far as files differ", async () => {
    await pullModel(ID);
    const model = here.hub.models.get(ID)!;
    const commit = "f".repeat(40);
    model.revisions.set("main", commit);
    model.commit = commit;
    model.files.set("generation_config.json", Buffer.from("{}"));
    here.hub.asked.length = 0;
    expect((await pullModel(ID)).commit).toBe(commit);
    expect(here.hub.fetched).toEqual(["generation_config.json"]);
    expect(readFileSync(repo("refs/main"), "utf8")).toBe(commit);
  });

  it.each([
    ["without safetensors", { "config.json": "{}", "pytorch_model.bin": "x" }, /tiny\/other: expected config\.json and weights in safetensors .*, found pytorch_model\.bin; such files are not read/], // prettier-ignore
    ["that is a data set", { "data.csv": "x" }, /found none/],
  ])("%s is refused before anything is fetched", async (_, files, message) => {
    here.hub.add("tiny/other", here.at("hub"), files as Record<string, string>);
    expect((await failure(pullModel("tiny/other"))).message).toMatch(message);
    expect(here.hub.fetched).toEqual([]);
  });
});

describe("a download that is cut", () => {
  it("goes on where it ended, again and again", async () => {
    Object.assign(here.hub, { cutAfter: 20_000, cuts: 3 });
    await pullModel(`${ID}@${COMMIT}`, { pause: 1 });
    const ranges = here.hub.asked.flatMap(({ host, range }) => (host === "cdn" && range !== null ? [range] : []));
    expect(here.hub.cuts).toBe(0);
    expect(ranges).toHaveLength(3);
    for (const range of ranges) expect(range).toMatch(/^bytes=(?:20000|40000|60000)-$/);
    for (const name of NEEDED) expect(readFileSync(snapshot(name)).equals(here.hub.models.get(ID)!.files.get(name)!)).toBe(true);
  });

  it("by the user leaves what came, and the next one fetches the rest", async () => {
    const stop = new AbortController();
    Object.assign(here.hub, { cutAfter: 30_000, cuts: Infinity });
    const onProgress = ({ done, total }: { done: number; total: number }): void => {
      if (total === weights().length && done >= 30_000) stop.abort(new Error("enough"));
    };
    expect(await failure(pullModel(ID, { signal: stop.signal, onProgress, pause: 1 }))).toMatchObject({ code: "ERR_ABORTED" });
    const part = repo("blobs", `${hashOf("model.safetensors", weights())}.incomplete`);
    const kept = lstatSync(part).size;
    expect(kept).toBeGreaterThanOrEqual(30_000);
    expect(() => lstatSync(repo("refs/main"))).toThrow("ENOENT"); // it would stand for what is not whole
    here.hub.cuts = 0;
    here.hub.asked.length = 0;
    await pullModel(ID);
    expect(here.hub.asked.find(({ host }) => host === "cdn")!.range).toBe(`bytes=${kept}-`);
    expect(readFileSync(snapshot("model.safetensors")).equals(weights())).toBe(true);
    expect(blobs().filter((name) => name.includes("."))).toEqual([]);
    expect(readdirSync(here.at("hub/.locks/models--tiny--olmoe"))).toEqual([]);
  });

  it("begins anew where the server knows no ranges, and where what is there is damaged or too long", async () => {
    await pullModel(ID);
    const blob = repo("blobs", hashOf("model.safetensors", weights()));
    for (const [ranges, part] of [
      [false, weights().subarray(0, 1000)],
      [true, Buffer.alloc(1000, 7)],
      [true, Buffer.alloc(weights().length + 5)],
      [true, Buffer.alloc(weights().length)],
      [true, weights()],
    ] as const) {
      // prettier-ignore
      rmSync(blob);
      writeFileSync(`${blob}.incomplete`, part);
      here.hub.ranges = ranges;
      await pullModel(ID, { pause: 1 });
      expect(readFileSync(snapshot("model.safetensors")).equals(weights())).toBe(true);
    }
  });

  it("of several at once in one process, each file comes once", async () => {
    await Promise.all([1, 2, 3].map(() => pullModel(ID)));
    expect(here.hub.fetched.sort()).toEqual(NEEDED);
  });

  it("gives up when nothing comes any more, and says so", async () => {
    Object.assign(here.hub, { cutAfter: 0, cuts: Infinity });
    expect((await failure(pullModel(ID, { pause: 1 }))).message).toMatch(/cannot|cut|ended after 0 of/);
  });
});

describe("what is not as the hub lists it", () => {
  it.each(["model.safetensors", "config.json"])("%s with other bytes is refused and not kept", async (name) => {
    here.hub.wrong = name;
    const error = await failure(pullModel(ID, { pause: 1 }));
    expect(error).toMatchObject({ code: "ERR_LAYOUT" });
    const hash = hashOf(name, here.hub.models.get(ID)!.files.get(name)!);
    expect(error.message).toMatch(
      new RegExp(`^tiny/olmoe/${name}: expected \\d+ bytes with the hash ${hash}, found [0-9a-f]+; they are not kept`),
    );
    expect(blobs().filter((blob) => blob.startsWith(hash))).toEqual([]);
    expect(() => lstatSync(snapshot(name))).toThrow("ENOENT");
    here.hub.wrong = null;
    await pullModel(ID);
    expect(readFileSync(snapshot(name)).equals(here.hub.models.get(ID)!.files.get(name)!)).toBe(true);
  });

  it("a disk without room is refused before the first byte", async () => {
    const before = replaceDisk({ ...disk, statfs: (async () => ({ bavail: 10, bsize: 100 })) as never });
    try {
      expect((await failure(pullModel(ID))).message).toMatch(
        /^tiny\/olmoe@0123.* needs .* more below .*, where 1\.00 kB are free; free some space, or set HF_HOME/,
      );
    } finally {
      replaceDisk(before);
    }
    expect(here.hub.fetched).toEqual([]);
  });

  it("a disk without links has the files in the snapshot, and says so", async () => {
    const notes: string[] = [];
    const refuse = async (): Promise<never> => {
      throw Object.assign(new Error("no"), { code: "EPERM" });
    };
    const before = replaceDisk({ ...disk, symlink: refuse });
    try {
      await pullModel(ID, { onNote: (text) => notes.push(text) });
      expect(lstatSync(snapshot("config.json")).isFile()).toBe(true);
      expect(notes.length).toBeGreaterThan(0);
      expect(notes[0]).toMatch(/no links can be made there \(EPERM\)/);
      here.hub.asked.length = 0;
      await pullModel(ID);
      expect(here.hub.fetched).toEqual([]);
    } finally {
      replaceDisk(before);
    }
  });
});

describe("a gated model", () => {
  beforeEach(() => void here.hub.gated.set(ID, "hf_right"));

  it("says where its terms are and how a token is given", async () => {
    const { message, ...error } = await failure(pullModel(ID));
    expect(error).toMatchObject({ code: "ERR_CONFIG" });
    expect(message).toBe(
      `tiny/olmoe is a gated model: accept its terms at ${here.hub.endpoint}/tiny/olmoe, and give a token of that account: set HF_TOKEN, or write it to ${here.at("token")} (${here.hub.endpoint}/settings/tokens makes one)`,
    );
    process.env["HF_TOKEN"] = "hf_wrong";
    const refused = await failure(pullModel(ID));
    expect(refused.message).toMatch(/the account of the token given has no access to it/);
    expect(JSON.stringify([message, refused.message, refused.stack])).not.toMatch(/hf_(wrong|right)/);
  });

  it.each(["HF_TOKEN", "HF_HOME/token"])("opens with the token of %s, which the hub alone is shown", async (place) => {
    if (place === "HF_TOKEN") process.env["HF_TOKEN"] = "hf_right";
    else writeFileSync(here.at("token"), "hf_right\n");
    await pullModel(ID);
    const tokens = (host: string): Set<string | null> => new Set(here.hub.asked.filter((a) => a.host === host).map(({ token }) => token));
    expect(tokens("hub")).toEqual(new Set(["Bearer hf_right"]));
    expect(tokens("cdn")).toEqual(new Set([null]));
  });

  it("no such model, no such revision", async () => {
    expect((await failure(pullModel("tiny/absent"))).message).toMatch(
      /has no model tiny\/absent that is open to everybody; a private one needs a token: set HF_TOKEN/,
    );
    expect((await failure(pullModel(`${ID}@v9`))).message).toMatch(/tiny\/olmoe has no branch, tag or commit v9; see /);
    expect((await failure(modelFolder("tiny/absent"))).message).toMatch(/^there is no folder tiny\/absent, and http/);
    expect((await failure(modelFolder("./absent"))).message).toBe(
      "cannot open the checkpoint ./absent: no such file or directory, and not the form of a model on the Hugging Face Hub (org/name or org/name@revision)",
    );
  });
});

describe("without the hub", () => {
  it("a folder of that name wins", async () => {
    const cwd = process.cwd();
    mkdirSync(here.at("tiny/olmoe"), { recursive: true });
    process.chdir(here.home);
    try {
      expect(await modelFolder(ID)).toBe(ID);
    } finally {
      process.chdir(cwd);
    }
    expect(here.hub.asked).toEqual([]);
  });

  it("what the cache has serves: HF_HUB_OFFLINE, or a hub that cannot be reached", async () => {
    await pullModel(ID);
    here.hub.asked.length = 0;
    process.env["HF_HUB_OFFLINE"] = "1";
    expect((await openCheckpoint(ID)).dir).toBe(snapshot());
    expect(here.hub.asked).toEqual([]);
    delete process.env["HF_HUB_OFFLINE"];
    await here.hub.stop();
    const notes: string[] = [];
    expect(await modelFolder(ID, { onNote: (text) => notes.push(text) })).toBe(snapshot());
    expect(notes).toEqual([`cannot reach ${here.hub.endpoint} (ECONNREFUSED): tiny/olmoe is taken from the cache, as it was at ${COMMIT}`]);
  });

  it("what is missing is named", async () => {
    process.env["HF_HUB_OFFLINE"] = "1";
    const offline = "HF_HUB_OFFLINE is set, so that nothing is fetched";
    expect((await failure(pullModel(ID))).message).toBe(`the cache has no tiny/olmoe (${repo()}); ${offline}`);
    delete process.env["HF_HUB_OFFLINE"];
    await loadTokenizer(ID);
    process.env["HF_HUB_OFFLINE"] = "1";
    await loadTokenizer(ID);
    expect((await failure(openCheckpoint(ID))).message).toBe(`there is no folder tiny/olmoe, and ${snapshot()} lacks model.safetensors of tiny/olmoe; ${offline}`); // prettier-ignore
    delete process.env["HF_HUB_OFFLINE"];
    await here.hub.stop();
    expect((await failure(openCheckpoint(ID))).message).toMatch(/lacks model\.safetensors of tiny\/olmoe; cannot reach http/);
  });

  it("a cache that Python's library has written is used, and filled up", async () => {
    const { files } = here.hub.models.get(ID)!;
    mkdirSync(repo("blobs"), { recursive: true });
    mkdirSync(repo("refs"));
    mkdirSync(snapshot(), { recursive: true });
    writeFileSync(repo("refs/main"), COMMIT);
    for (const name of ["config.json", "model.safetensors"]) {
      writeFileSync(repo("blobs", hashOf(name, files.get(name)!)), files.get(name)!);
      symlinkSync(`../../blobs/${hashOf(name, files.get(name)!)}`, snapshot(name));
    }
    // What filelock leaves; nobody holds it.
    mkdirSync(here.at("hub/.locks/models--tiny--olmoe"), { recursive: true });
    for (const [name, content] of files) writeFileSync(here.at("hub/.locks/models--tiny--olmoe", `${hashOf(name, content)}.lock`), "");
    process.env["HF_HUB_OFFLINE"] = "1";
    expect((await openCheckpoint(ID)).dir).toBe(snapshot());
    delete process.env["HF_HUB_OFFLINE"];
    await openCheckpoint(ID);
    expect(here.hub.fetched.sort()).toEqual(NEEDED.filter((name) => name !== "config.json" && name !== "model.safetensors"));
  });

  it("a link whose blob is gone, and a blob that was cut, are fetched again", async () => {
    await pullModel(ID);
    rmSync(repo("blobs", hashOf("config.json", here.hub.models.get(ID)!.files.get("config.json")!)));
    truncateSync(repo("blobs", hashOf("model.safetensors", weights())), 100);
    here.hub.asked.length = 0;
    await pullModel(ID);
    expect(here.hub.fetched.sort()).toEqual(["config.json", "model.safetensors"]);
    expect(readFileSync(snapshot("model.safetensors")).equals(weights())).toBe(true);
  });
});
