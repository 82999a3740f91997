// One typed function per native op. Each docstring says what is computed, on which shapes and dtypes; the contract in full
// (accumulation, ties, order of sums, aliasing) is the header it names.
//
// Letters of shapes: T tokens, D hidden size, F hidden size of an expert, E experts, K experts per token, N = T·K routed rows, H heads,
// V vocabulary, R rows and C columns of anything. "act" is an activation: f32 or bf16, all of one call alike. Tensors are f32 where
// nothing is said, and rows may be apart (`ld`).
//
// Every function checks its arguments and queues the op. It throws KernelError (op, argument, expected, received) or DisposedError at
// once; what shows only when the op runs, such as index values out of their range, rejects the next wait on the device.

export type { Activation } from "./ops/activation.ts";
export type { Ids, Precision } from "./ops/bind.ts";
export * from "./ops/attention.ts";
export * from "./ops/delta.ts";
export * from "./ops/dense.ts";
export * from "./ops/elementwise.ts";
export * from "./ops/experts.ts";
export * from "./ops/gate.ts";
export * from "./ops/routing.ts";
export * from "./ops/sampling.ts";
export * from "./ops/training.ts";
