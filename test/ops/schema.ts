// The native argument lists by the name of an op. Knows no test runner, so that the benchmark reads them too.

import { native } from "../../lib/native.ts";
import type { OpField } from "../../lib/native.ts";
import { Tensor, TensorList } from "../../lib/tensor.ts";

const schemas = new Map(native.ops.map((op, index) => [op.name, { index, fields: op.fields }]));

function schemaOf(op: string): { readonly index: number; readonly fields: readonly OpField[] } {
  const s = schemas.get(op);
  if (!s) throw new Error(`no op ${op}`);
  return s;
}
export const fieldsOf = (op: string): readonly OpField[] => schemaOf(op).fields;
export const indexOf = (op: string): number => schemaOf(op).index;
export const opNames: readonly string[] = [...schemas.keys()];

/** What Device.submit takes for arguments by their native names; what is no tensor goes as it is. */
export const valuesOf = (op: string, args: Readonly<Record<string, unknown>>): unknown[] =>
  fieldsOf(op).map(({ name }) => {
    const a = args[name];
    return a instanceof Tensor || a instanceof TensorList ? a.handle : a;
  });
