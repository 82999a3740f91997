#!/usr/bin/env node
// What prebuildify calls instead of node-gyp: a build through CMake, so that no Node headers are downloaded and neither
// python nor make is needed. Its arguments (rebuild --target=… --arch=…) do not matter to a Node-API addon.
"use strict";
process.env.ESFT_STATIC_CXX = "1";
process.argv[2] = process.argv.includes("--debug") ? "Debug" : "Release";
require("./cmake-build.cjs");
