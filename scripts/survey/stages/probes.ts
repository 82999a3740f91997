// Stage "probes": every kernel family at the size of a tile, each against the reference. The first hang has a name here: with the debug
// library a wait that does not end says which CTA waits for which barrier.

import { smallCases, tileCases } from "../../../test/cuda/one_tile.ts";
import { cudaDevice, expectValue, forms, hasClusters } from "../../../test/cuda/support.ts";
import type { Variant } from "../../../test/cuda/support.ts";
import type { OpCase } from "../../../test/ops/support.ts";
import { Absent } from "../item.ts";
import type { Item } from "../item.ts";

const SECONDS = 4;

function probe(c: OpCase, variant: Variant): Item {
  const [form] = forms(c);
  const name = [form!.name, ...Object.entries(variant).map(([key, value]) => `${key} ${value}`)].join(", ");
  return {
    name,
    patience: SECONDS,
    run: async () => {
      const { instructionSet } = cudaDevice()!.info;
      if (variant.path === "sm90" && instructionSet !== "sm_90a") throw new Absent(`this device is ${instructionSet}`);
      await expectValue(c, form!.args(), [variant]);
      return { text: "right" };
    },
  };
}

export function items(): Item[] {
  return [
    {
      name: "open the device",
      patience: 3 * SECONDS, // the library is read and its kernels are loaded
      run: () => ({ text: cudaDevice()!.info.name }),
    },
    ...smallCases.map((c) => probe(c, {})),
    ...tileCases.map((c) => probe(c, { path: "portable" })),
    ...tileCases.map((c) => probe(c, { path: "sm90" })),
    ...tileCases.filter((c) => hasClusters(c.op)).map((c) => probe(c, { path: "sm90", cluster: "2" })),
  ];
}
