// Ends workers while their device runs, then uses the addon again: node terminate.cjs
"use strict";
const { Worker, isMainThread, parentPort } = require("node:worker_threads");
const { native, submitProducts } = require("./addon.cjs");

if (!isMainThread) {
  const device = new native.Device("ref", 1);
  const c = submitProducts(device, 192, 200);
  c.read().then(() => parentPort.postMessage("finished"));
  device.synchronize().then(() => parentPort.postMessage("finished"));
  parentPort.postMessage("started");
} else {
  void (async () => {
    for (let i = 0; i < 4; i++) {
      const worker = new Worker(__filename);
      const messages = [];
      worker.on("message", (m) => messages.push(m));
      await new Promise((resolve, reject) => worker.once("message", resolve).once("error", reject));
      await new Promise((resolve) => setTimeout(resolve, 15 * i));
      await worker.terminate();
      if (messages.includes("finished")) throw new Error("the worker was done before it was ended: nothing was tested");
    }
    const device = new native.Device("cpu", 2);
    const values = new Float32Array(await submitProducts(device, 64, 3).read());
    device.dispose();
    console.log(`after termination: ${values[0]}`);
  })();
}
