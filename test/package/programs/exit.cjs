// Leaves while ops are pending: node exit.cjs exit|throw|return|dispose
"use strict";
const { native, submitProducts } = require("./addon.cjs");

const device = new native.Device("ref", 1);
const c = submitProducts(device, 192, 30);
const pending = c.read();
const how = process.argv[2];
if (how === "exit") process.exit(7);
if (how === "throw") throw new Error("on purpose");
if (how === "dispose") {
  pending.then(
    () => console.log("read"),
    (error) => console.log(`rejected: ${error.message}`),
  );
  device.dispose();
}
// "return": the pending promise keeps nothing alive that could crash at the natural end.
