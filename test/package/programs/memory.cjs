// Peak memory of a loop over 4 MB tensors: node memory.cjs dispose|collect → one number, megabytes.
"use strict";
const { native, f32, run } = require("./addon.cjs");

const device = new native.Device("cpu", 1);
const dispose = process.argv[2] === "dispose";
void (async () => {
  for (let i = 0; i < 600; i++) {
    const t = device.alloc(f32, [1024, 1024]);
    run(device, "fill", { x: t, value: 1 });
    if (dispose) {
      t.dispose();
      if (i % 8 === 7) await device.synchronize(); // queued ops hold their tensors
    } else if (i % 16 === 15) {
      await device.synchronize();
      await new Promise((resolve) => setImmediate(resolve));
    }
  }
  await device.synchronize();
  console.log(Math.round(process.resourceUsage().maxRSS / 1024));
})();
