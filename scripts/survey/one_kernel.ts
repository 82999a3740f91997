// One kernel on the device "cuda": what compute-sanitizer and ncu are tried on.

import * as ops from "../../lib/ops.ts";
import { Device } from "../../lib/tensor.ts";

using device = new Device({ kind: "cuda" });
using x = device.empty("f32", [1024]);
ops.fill(device, { x, value: 1 });
const sum = (await x.readF32()).reduce((a, b) => a + b, 0);
console.log(`sum ${sum}`);
process.exitCode = sum === 1024 ? 0 : 1;
