// How errors about files and tensors are worded: "FILE: tensor "NAME": expected …, found …; the fix", with the place in `where` too.
import { LayoutError } from "../errors.ts";

/** A file that is not as it must be, or a tensor of it. */
export const layoutFault = (file: string, fault: string, tensor?: string): LayoutError =>
  new LayoutError(`${file}: ${tensor === undefined ? "" : `tensor ${shown(tensor)}: `}${fault}`, { where: { file, tensor } });

/** A value out of a file, cut to what a message can hold. */
export function shown(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 120 ? `${text.slice(0, 117)}...` : text;
}

/** [8, 6] */
export const shownShape = (shape: readonly number[]): string => `[${shape.join(", ")}]`;

/** F32 [8, 6] */
export const shownType = (t: { readonly dtype: string; readonly shape: readonly number[] }): string => `${t.dtype} ${shownShape(t.shape)}`;
