// Event files of TensorBoard: checksums, records, what of each event is drawn, a run's file read back. TensorBoard's own reader is not
// asked here: it is Python. No GPU. Alone: npx vitest run test/report/tensorboard.test.ts

import { mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import path from "node:path";
import { describe, expect, it } from "vitest";
import { crc32c, messagesOf, record, TensorBoardLog } from "../../lib/report/tensorboard.ts";
import type { TrainEvent } from "../../lib/train/events.ts";
import { cli, writeRows } from "../cli/support.ts";
import { tempDir } from "../support/fixture.ts";
import { tinyOlmoe, writeTinyModel } from "../support/tiny_model.ts";
import { stepEvent } from "./support.ts";

const dir = tempDir();

type Field = number | Uint8Array;
/** Fields of a message as [number, value]; numbers of eight and four bytes as floats. */
function fieldsOf(message: Uint8Array): [number, Field][] {
  const view = new DataView(message.buffer, message.byteOffset, message.length);
  const fields: [number, Field][] = [];
  let at = 0;
  const varint = (): number => {
    for (let value = 0, scale = 1; ; scale *= 128) {
      const byte = message[at++]!;
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < message.length) {
    const tag = varint();
    const [field, type] = [tag >> 3, tag & 7];
    if (type === 0) fields.push([field, varint()]);
    else if (type === 1) [fields[fields.length], at] = [[field, view.getFloat64(at, true)], at + 8];
    else if (type === 5) [fields[fields.length], at] = [[field, view.getFloat32(at, true)], at + 4];
    else {
      const length = varint();
      fields.push([field, message.subarray(at, (at += length))]);
    }
  }
  return fields;
}
const field = (message: Uint8Array, number: number): Field | undefined => fieldsOf(message).find(([n]) => n === number)?.[1];
const text = (bytes: Field | undefined): string => Buffer.from(bytes as Uint8Array).toString();

/** The scalars of an Event. */
function scalars(message: Uint8Array): Record<string, number> {
  const values = fieldsOf(field(message, 5) as Uint8Array).map(([, value]) => value as Uint8Array);
  return Object.fromEntries(values.map((v) => [text(field(v, 1)), field(v, 2) as number]));
}

/** The messages of a file; every checksum is looked at. */
function messages(file: string): Uint8Array[] {
  const bytes = readFileSync(file);
  const out: Uint8Array[] = [];
  for (let at = 0; at < bytes.length;) {
    const length = Number(bytes.readBigUInt64LE(at));
    const message = bytes.subarray(at + 12, at + 12 + length);
    expect(bytes.subarray(at, at + 16 + length)).toEqual(record(message));
    out.push(message);
    at += 16 + length;
  }
  return out;
}

it("checksums and records", () => {
  // RFC 3720, B.4
  expect(crc32c(Buffer.from("123456789")).toString(16)).toBe("e3069283");
  expect(crc32c(Buffer.alloc(32)).toString(16)).toBe("8a9136aa");
  expect(crc32c(Buffer.alloc(32, 0xff)).toString(16)).toBe("62a8ab43");
  // an empty message: 8 bytes of length 0, whose masked CRC TensorFlow writes as 29 03 98 07; that of nothing is the constant alone
  expect(record(new Uint8Array(0)).toString("hex")).toBe("000000000000000029039807d8ea82a2");
});

describe("what is drawn", () => {
  it("of a step and an evaluation", () => {
    const [step] = messagesOf(stepEvent(3, { coverage: undefined }) as TrainEvent, 1.5);
    expect([field(step!, 1), field(step!, 2)]).toEqual([1.5, 3]);
    expect(scalars(step!)).toEqual({
      "train/loss": Math.fround(2.7),
      "train/accuracy": Math.fround(0.15),
      "train/gradient_norm": Math.fround(1 / 3),
      "train/learning_rate": Math.fround(3e-5),
      "train/tokens_per_second": 203,
    });
    const [held] = messagesOf({ type: "eval", step: 300, loss: 2, accuracy: 0.5, supervised: 4, best: true }, 0);
    expect([field(held!, 2), scalars(held!)]).toEqual([300, { "eval/loss": 2, "eval/accuracy": 0.5 }]);
  });

  it("of a beginning nothing; a run that goes on takes back what came after its checkpoint", () => {
    const start = { type: "start", step: 0 } as TrainEvent;
    expect(messagesOf(start, 0)).toEqual([]);
    const [again] = messagesOf({ ...start, step: 7 } as TrainEvent, 0);
    expect([field(again!, 2), field(field(again!, 7) as Uint8Array, 1)]).toEqual([8, 1]);
    expect(messagesOf({ type: "warning", step: 1, message: "w" }, 0)).toEqual([]);
  });
});

it("a run and what goes on after it are a file each; a log that cannot be written does not stop a run", async () => {
  const at = (name: string): string => path.join(dir, name);
  await writeTinyModel(at("model"), tinyOlmoe);
  writeRows(at("rows.jsonl"));
  const machine = ["--threads", "1", "--device", "cpu"];
  const job = ["--model", at("model"), "--data", at("rows.jsonl"), "--method", "lora", "--rank", "1", "--targets", "attention", "--max-length", "64", "--rows-per-step", "2", "--schedule", "constant", ...machine]; // prettier-ignore
  const trained = await cli(["train", ...job, "--steps", "2", "--out", at("run"), "--tensorboard", at("board"), "--eval-every", "1"]);
  expect(trained).toMatchObject({ code: 0, err: expect.not.stringContaining("warning") });
  const [first] = readdirSync(at("board"));
  expect(first).toMatch(/^events\.out\.tfevents\.\d+\./);
  const [version, ...drawn] = messages(path.join(at("board"), first!));
  expect(text(field(version!, 3))).toBe("brain.Event:2");
  const logged = readFileSync(at("run/events.jsonl"), "utf8").trim().split("\n").map((l) => JSON.parse(l) as { type: string; step: number; loss: number }); // prettier-ignore
  const expected = logged.filter((e) => e.type === "step" || e.type === "eval").map((e) => [e.step, e.type, Math.fround(e.loss)]);
  const found = drawn.map((m) => {
    const all = scalars(m);
    const kind = "eval/loss" in all ? "eval" : "step";
    return [field(m, 2) ?? 0, kind, all[kind === "eval" ? "eval/loss" : "train/loss"]];
  });
  expect(found).toEqual(expected);

  await cli(["resume", at("run"), "--steps", "3", "--tensorboard", at("board"), "--threads", "1"]);
  const [, second] = readdirSync(at("board")).sort();
  expect(field(messages(path.join(at("board"), second!))[1]!, 7)).toBeDefined();

  expect((await cli(["train", ...job, "--steps", "1", "--out", at("x"), "--tensorboard", at("model")])).err).toContain(
    "apart from the model",
  );
  expect((await cli(["train", ...job, "--steps", "1", "--out", at("x"), "--tensorboard", at("rows.jsonl")])).err).toMatch(
    /error \[ERR_IO\]/,
  );
  const nowhere = job.map((word) => (word === at("model") ? at("no-model") : word)); // the log is opened before the model is read
  expect((await cli(["train", ...nowhere, "--steps", "1", "--out", at("x"), "--tensorboard", at("rows.jsonl")])).err).toContain(
    at("rows.jsonl"),
  );
  mkdirSync(at("closed"));
  const log = await TensorBoardLog.open(at("closed"));
  await log[Symbol.asyncDispose]();
  await expect(log.add(stepEvent(1) as TrainEvent)).rejects.toThrow(/cannot write .*tfevents/);
  rmSync(at("closed"), { recursive: true });
});
