// The native argument lists by the name of an op. Knows no test runner, so that the benchmark reads them too.

import { native } from "../../lib/native.ts";

export interface Field {
  readonly name: string;
  readonly kind: string;
}
const schemas = new Map(native.ops.map((op, index) => [op.name, { index, fields: op.fields as readonly Field[] }]));

function schemaOf(op: string): { readonly index: number; readonly fields: readonly Field[] } {
  const s = schemas.get(op);
  if (!s) throw new Error(`no op ${op}`);
  return s;
}
export const fieldsOf = (op: string): readonly Field[] => schemaOf(op).fields;
export const indexOf = (op: string): number => schemaOf(op).index;
export const opNames: readonly string[] = [...schemas.keys()];
