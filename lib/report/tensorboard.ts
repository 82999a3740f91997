// The events of a run as an event file of TensorBoard: a TFRecord file of Event messages (tensorflow/core/util/event.proto), a scalar each.
//
//   record: length u64, masked CRC32C of the length u32, the message, masked CRC32C of the message u32; all little-endian

import { hostname } from "node:os";
import { join } from "node:path";
import { BinaryWriter } from "@bufbuild/protobuf/wire";
import { makeFolder } from "../files/atomic.ts";
import { disk } from "../files/disk.ts";
import { ioError } from "../task.ts";
import type { TrainEvent } from "../train/events.ts";

// Fields of Event, Summary, Summary.Value and SessionLog, and wire types.
const EVENT = { wallTime: 1, step: 2, fileVersion: 3, summary: 5, sessionLog: 7 } as const;
const SUMMARY_VALUE = 1;
const VALUE = { tag: 1, simple: 2 } as const;
const SESSION = { status: 1, START: 1 } as const;
const [VARINT, EIGHT, BYTES, FOUR] = [0, 1, 2, 5];

/** CRC-32C (Castagnoli), reflected. */
const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  let c = n;
  for (let k = 0; k < 8; k++) c = c & 1 ? (c >>> 1) ^ 0x82f63b78 : c >>> 1;
  return c;
});

export function crc32c(bytes: Uint8Array): number {
  let c = 0xffffffff;
  for (const byte of bytes) c = TABLE[(c ^ byte) & 0xff]! ^ (c >>> 8);
  return (c ^ 0xffffffff) >>> 0;
}

/** Records hold checksums of checksums, which plain ones are bad at: rotated by 15 bits, plus a constant. */
function masked(bytes: Uint8Array): number {
  const c = crc32c(bytes);
  return (((c >>> 15) | (c << 17)) + 0xa282ead8) >>> 0;
}

export function record(message: Uint8Array): Buffer {
  const [head, tail] = [Buffer.alloc(12), Buffer.alloc(4)];
  head.writeBigUInt64LE(BigInt(message.length));
  head.writeUInt32LE(masked(head.subarray(0, 8)), 8);
  tail.writeUInt32LE(masked(message));
  return Buffer.concat([head, message, tail]);
}

/** What of an event is drawn: tag → value. */
function scalarsOf(event: TrainEvent): Readonly<Record<string, number | undefined>> {
  if (event.type === "eval") return { "eval/loss": event.loss, "eval/accuracy": event.accuracy };
  if (event.type === "guard") return Object.fromEntries(event.files.map(({ name, loss }) => [`guard/${name}`, loss]));
  if (event.type === "drift") return { "routing/shift": event.shift, "routing/kept": event.kept };
  if (event.type !== "step") return {};
  return {
    "train/loss": event.loss,
    "train/accuracy": event.accuracy,
    "train/gradient_norm": event.gradNorm,
    "train/learning_rate": event.lr,
    "train/tokens_per_second": event.tokensPerSecond,
    "train/coverage": event.coverage,
    "train/always_active": event.alwaysActive,
    "train/balance_loss": event.balanceLoss,
  };
}

/** Seconds since 1970, and the update. */
const begin = (wallTime: number, step: number): BinaryWriter =>
  new BinaryWriter().tag(EVENT.wallTime, EIGHT).double(wallTime).tag(EVENT.step, VARINT).int64(step);

/** The messages of an event; none where nothing of it is drawn. */
export function messagesOf(event: TrainEvent, wallTime: number): Uint8Array[] {
  // A run that goes on: what was drawn after its checkpoint did not happen.
  if (event.type === "start" && event.step > 0) {
    const writer = begin(wallTime, event.step + 1)
      .tag(EVENT.sessionLog, BYTES)
      .fork();
    return [writer.tag(SESSION.status, VARINT).int32(SESSION.START).join().finish()];
  }
  const scalars = Object.entries(scalarsOf(event)).flatMap(([tag, value]) => (value === undefined ? [] : [[tag, value] as const]));
  if (scalars.length === 0) return [];
  const writer = begin(wallTime, event.step).tag(EVENT.summary, BYTES).fork();
  for (const [tag, value] of scalars)
    writer.tag(SUMMARY_VALUE, BYTES).fork().tag(VALUE.tag, BYTES).string(tag).tag(VALUE.simple, FOUR).float(value).join();
  return [writer.join().finish()];
}

let made = 0;

/** An event file of its own in a folder: a run that goes on adds another one, as TensorBoard expects. */
export class TensorBoardLog implements AsyncDisposable {
  readonly path: string;
  private readonly file: Awaited<ReturnType<typeof disk.open>>;

  private constructor(path: string, file: Awaited<ReturnType<typeof disk.open>>) {
    this.path = path;
    this.file = file;
  }

  /** @throws IoError */
  static async open(dir: string): Promise<TensorBoardLog> {
    await makeFolder(dir);
    const now = Date.now() / 1000;
    const path = join(dir, `events.out.tfevents.${Math.floor(now)}.${hostname()}.${process.pid}.${made++}`);
    const file = await disk.open(path, "wx").catch((error: unknown) => {
      throw ioError(error, `cannot write ${path}`, { file: path });
    });
    const log = new TensorBoardLog(path, file);
    const version = new BinaryWriter().tag(EVENT.wallTime, EIGHT).double(now).tag(EVENT.fileVersion, BYTES).string("brain.Event:2");
    await log.write([version.finish()]);
    return log;
  }

  /** @throws IoError */
  async add(event: TrainEvent): Promise<void> {
    const messages = messagesOf(event, Date.now() / 1000);
    if (messages.length > 0) await this.write(messages);
  }

  private async write(messages: readonly Uint8Array[]): Promise<void> {
    try {
      await this.file.appendFile(Buffer.concat(messages.map(record)));
    } catch (error) {
      throw ioError(error, `cannot write ${this.path}`, { file: this.path });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.file.close();
  }
}
