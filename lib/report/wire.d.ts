// What is used of @bufbuild/protobuf: the writer of the wire format, without generated messages.

declare module "@bufbuild/protobuf/wire" {
  export class BinaryWriter {
    /** Number of a field, and its wire type: 0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes. */
    tag(field: number, type: number): this;
    int64(value: number): this;
    int32(value: number): this;
    double(value: number): this;
    float(value: number): this;
    string(value: string): this;
    /** A message inside: its tag before, `join` behind its fields. */
    fork(): this;
    join(): this;
    finish(): Uint8Array<ArrayBuffer>;
  }
}
