// How an op becomes a function: its argument list comes from the addon (csrc/ops/<op>.h), and what that list cannot say (defaults,
// flags, words for codes) from the few lines beside it. All names are looked up here, once: a call reads its arguments in the
// order of the list and submits. What they are is checked on the native side, by kind.

import { KernelError } from "../errors.ts";
import { buildCommand, native } from "../native.ts";
import { Tensor, TensorList } from "../tensor.ts";
import type { Device } from "../tensor.ts";

/** "f32": exact; "bf16": operands of the products rounded to bf16, f32 sums. */
export type Precision = "f32" | "bf16";
export type Maybe<T> = T | null | undefined;
/** Ids that the host knows, ascending. An Int32Array is copied at once, a plain array item by item. */
export type Ids = readonly number[] | Int32Array;

/**
 * The arguments that are not simply the property of their own name in camelCase: a default, or how they are read. Anything but the
 * words expected is handed on as it is, for the native side to refuse.
 */
export type From<A> = Readonly<Record<string, number | ((args: A) => unknown)>>;

export const flag = (b: Maybe<boolean>): unknown => (b === true ? 1 : b === false ? 0 : (b ?? 0));
export const code = (codes: Readonly<Record<string, number>>, word: string): unknown => codes[word] ?? word;
const precisions = { f32: 0, bf16: 1 };
/** The precision of an op with matrix products: f32 when it is not given. */
export const precision = (a: { readonly precision?: Maybe<Precision> }): unknown => code(precisions, a.precision ?? "f32");

const numbers = new Map(native.ops.map((op, number) => [op.name, number]));

/**
 * The function that submits an op. It throws KernelError or DisposedError, naming op and argument, before anything is queued: an
 * argument that is missing, of another type, dtype or shape, of another device, disposed, or in memory that it must not be in.
 * @throws KernelError at load: the addon has no such op, or the op has no such argument
 */
export function bind<A extends object>(op: string, from: From<A> = {}): (device: Device, args: A) => void {
  const number = numbers.get(op);
  if (number === undefined) throw new KernelError(`the addon has no op "${op}": rebuild it with "${buildCommand}"`);
  const { fields } = native.ops[number]!;
  for (const name of Object.keys(from))
    if (!fields.some((field) => field.name === name))
      throw new KernelError(`the addon's op "${op}" has no argument "${name}": rebuild it with "${buildCommand}"`);
  const readers = fields.map(({ name, kind }): ((args: A) => unknown) => {
    const how = from[name];
    if (typeof how === "function") return how;
    const key = name.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase()) as keyof A;
    if (how !== undefined) return (args) => args[key] ?? how;
    return kind === "tensor" || kind === "list" ? (args) => handleOf(args[key]) : (args) => args[key];
  });
  return (device, args) => {
    const values: unknown[] = [];
    for (const read of readers) values.push(read(args));
    device.submit(number, values);
  };
}

/** The native object; anything else as it is, for the native side to refuse. */
export const handleOf = (value: unknown): unknown => (value instanceof Tensor || value instanceof TensorList ? value.handle : value);
