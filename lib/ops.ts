// One function per native op: names, types and defaults in lib/ops/, shapes and pointers in C++, no logic anywhere.
// The contract of each op (shapes, dtypes, accumulation, ties, errors) is its header csrc/ops/<stem>.h.

export type { Precision } from "./ops/call.ts";
export * from "./ops/attention.ts";
export * from "./ops/dense.ts";
export * from "./ops/elementwise.ts";
export * from "./ops/experts.ts";
export * from "./ops/routing.ts";
export * from "./ops/training.ts";
