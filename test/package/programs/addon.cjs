// The addon without lib/: what the programs of this folder, run by a plain node, share.
"use strict";
const path = require("node:path");

const root = path.resolve(__dirname, "..", "..", "..");
const native = process.env.ESFT_NATIVE ? require(path.resolve(process.env.ESFT_NATIVE)) : require("node-gyp-build")(root);
const opIndex = (name) => native.ops.findIndex((op) => op.name === name);
const f32 = 0;

/** Submits an op, its arguments by name. */
function run(device, name, args) {
  const op = opIndex(name);
  device.run(op, ...native.ops[op].fields.map((field) => args[field.name]));
}

/** Submits c = a·bᵀ for n×n matrices of ones, `times` times; returns c. */
function submitProducts(device, n, times) {
  const ones = new Float32Array(n * n).fill(1);
  const a = device.alloc(f32, [n, n]);
  const c = device.alloc(f32, [n, n]);
  a.write(ones);
  for (let i = 0; i < times; i++) run(device, "gemm", { mode: 0, a, b: a, c, accumulate: 0, precision: 0 });
  return c;
}

module.exports = { native, opIndex, run, f32, submitProducts };
