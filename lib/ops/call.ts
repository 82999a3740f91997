// What the functions of this folder share: the number of an op, and options as the native side takes them.
import { KernelError } from "../errors.ts";
import { native } from "../native.ts";

/** "f32": exact; "bf16": operands of the products rounded to bf16, f32 sums. */
export type Precision = "f32" | "bf16";
export type Maybe<T> = T | null | undefined;

const opIndex = new Map(native.ops.map((op, i) => [op.name, i]));
export function index(name: string): number {
  const i = opIndex.get(name);
  if (i === undefined) throw new KernelError(`the addon has no op "${name}": rebuild it with "npm run build:native"`);
  return i;
}
export const precisionCode = (precision: Precision | undefined): number => (precision === "bf16" ? 1 : 0);
export const flag = (b: boolean | undefined): number => (b ? 1 : 0);
