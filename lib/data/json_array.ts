// A JSON file that is one array of rows: cut into its rows as the bytes come, so that memory is one row, whatever the size of the file.

import { DataError } from "../errors.ts";
import { dataBytes } from "./bytes.ts";
import { MAX_LINE, notText, parseLine, tried, type ReadValue } from "./lines.ts";
import { placeIn } from "./place.ts";
import { decodeText } from "./table_rows.ts";

/** Rows counted from 1. @throws DataError no array, or one that does not end · IoError · AbortError */
export async function* readJsonArray(file: string, signal?: AbortSignal, maxRow = MAX_LINE): AsyncGenerator<ReadValue> {
  const cutter = new Cutter(file, maxRow);
  let row = 0;
  for await (const piece of dataBytes(file, signal))
    for (const bytes of cutter.push(piece)) {
      const text = decodeText(bytes);
      yield tried(++row, { file, unit: "row" }, () => (text === null ? notText() : parseLine(text)));
    }
  cutter.end();
}

const [QUOTE, BACKSLASH, COMMA, OPEN, CLOSE] = [0x22, 0x5c, 0x2c, 0x5b, 0x5d];
const OPENS = [0x7b, OPEN];
const CLOSES = [0x7d, CLOSE];
const SPACE = [0x20, 0x09, 0x0a, 0x0d];
const BOM = [0xef, 0xbb, 0xbf];

/** Where rows begin and end. All that decides is ASCII, which no byte within a character of UTF-8 is. */
class Cutter {
  private readonly file: string;
  private readonly maxRow: number;
  private readonly held: Buffer[] = [];
  private heldBytes = 0;
  private bytes = 0;
  private rows = 0;
  private state: "before" | "row" | "after" = "before";
  /** Of the row: brackets that are open, whether in a text, whether the next byte is escaped, whether anything but space was seen. */
  private depth = 0;
  private inText = false;
  private escaped = false;
  private begun = false;
  /** A comma was the last: another row must follow. */
  private due = false;

  constructor(file: string, maxRow: number) {
    this.file = file;
    this.maxRow = maxRow;
  }

  /** The rows that end in this piece, as their bytes. @throws DataError */
  *push(piece: Buffer): Generator<Uint8Array> {
    let from = 0;
    for (let at = 0; at < piece.length; at++, this.bytes++) {
      const byte = piece[at]!;
      if (this.state !== "row") {
        if (this.outside(byte)) from = at + 1;
        continue;
      }
      if (this.inside(byte)) continue;
      const row = Buffer.concat([...this.held.splice(0), piece.subarray(from, at)]);
      from = at + 1;
      this.heldBytes = 0;
      if (this.begun) yield row;
      else if (byte === COMMA || this.due) throw this.fault(`expected a row, found ${JSON.stringify(String.fromCharCode(byte))}`);
      if (this.begun) this.rows++;
      this.begun = false;
      this.due = byte === COMMA;
      if (byte === CLOSE) this.state = "after";
    }
    if (this.state !== "row") return;
    this.held.push(piece.subarray(from));
    this.heldBytes += piece.length - from;
    if (this.heldBytes > this.maxRow) throw this.fault(`expected rows of at most ${this.maxRow} bytes, found a longer one`);
  }

  end(): void {
    if (this.state === "before") throw this.fault('expected an array of rows ("[ … ]"), found an empty file');
    if (this.state === "row") throw this.fault("expected the end of the array (]), found the end of the file; it is cut off");
  }

  /** Before the array, or after it. @returns true: the array begins */
  private outside(byte: number): boolean {
    if (SPACE.includes(byte) || (this.bytes < BOM.length && byte === BOM[this.bytes])) return false;
    const found = JSON.stringify(String.fromCharCode(byte));
    if (this.state === "after") throw this.fault(`expected nothing after the array, found ${found}`);
    if (byte !== OPEN)
      throw this.fault(
        `expected an array of rows ("[ … ]"), found ${found}; a file with one row per line is JSONL: name it .jsonl, or give format "jsonl"`,
      );
    this.state = "row";
    return true;
  }

  /** @returns false: the row ends before this byte */
  private inside(byte: number): boolean {
    if (this.inText) {
      if (this.escaped) this.escaped = false;
      else if (byte === BACKSLASH) this.escaped = true;
      else if (byte === QUOTE) this.inText = false;
      return true;
    }
    if (this.depth === 0 && (byte === COMMA || byte === CLOSE)) return false;
    if (SPACE.includes(byte)) return true;
    this.begun = true;
    if (byte === QUOTE) this.inText = true;
    else if (OPENS.includes(byte)) this.depth++;
    else if (CLOSES.includes(byte) && --this.depth < 0) throw this.fault('expected a row, found "}" without its beginning');
    return true;
  }

  private fault(says: string): DataError {
    const { file, rows } = this;
    return new DataError(`${placeIn({ file, unit: "row" }, rows + 1)}: ${says}`, {
      where: { file, rule: "json", line: rows + 1, byte: this.bytes },
    });
  }
}
