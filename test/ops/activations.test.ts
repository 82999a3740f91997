// bf16 activations without a GPU: the references on them against plain JavaScript, and who refuses what.
// Alone: npx vitest run test/ops/activations.test.ts

import { afterAll, describe, it } from "vitest";
import { expectBf16Close } from "./activations.ts";
import { asBf16, bf16Args, takesActivations } from "./bf16_args.ts";
import { mixedGemmCases } from "./cases/gemm.ts";
import { allCases, bases } from "./cases/index.ts";
import { Random } from "./host.ts";
import type { HostTensor } from "./host.ts";
import { closeDevices, device, expectRefused, fieldsOf, isNested, run } from "./support.ts";
import type { OpCase } from "./support.ts";

afterAll(closeDevices);

describe("the references with bf16 activations against plain JavaScript", () => {
  const check = async (c: OpCase, args: ReturnType<OpCase["args"]>): Promise<void> => {
    const got = await run(device("ref"), c.op, args);
    for (const [name, want] of Object.entries(c.expected!(args))) {
      const lists = isNested(want, c.op, name) ? want.map((w, i) => [`${name}[${i}]`, w] as const) : [[name, want] as const];
      for (const [label, w] of lists)
        expectBf16Close(
          c,
          args,
          `ref ${c.op}`,
          got.find((o) => o.name === label)!,
          w,
        );
    }
  };
  for (const c of allCases)
    if (c.expected && takesActivations(c.op)) it(`${c.op}: ${c.name}`, () => check(c, bf16Args(c.op, c.args(new Random(c.name)))));
  for (const c of mixedGemmCases) it(`${c.op}: ${c.name}`, () => check(c, c.args(new Random(c.name))));
});

describe("refusals", () => {
  for (const { op, args: make } of bases) {
    if (!takesActivations(op)) continue;
    const args = make(new Random(op));
    it(`${op} with bf16 activations on the cpu`, () =>
      expectRefused(device("cpu"), op, bf16Args(op, args), ["must be f32 on the cpu device", "bf16 activations run on CUDA"]));
    const names = fieldsOf(op)
      .filter((f) => f.activation)
      .map((f) => f.name)
      .filter((n) => args[n] && !("same" in (args[n] as object)));
    if (names.length > 1)
      for (const name of names.slice(1))
        it(`${op} with a bf16 ${name} among f32 activations`, async () => {
          for (const d of [device("ref"), device("cpu")])
            await expectRefused(d, op, { ...args, [name]: asBf16(args[name] as HostTensor) }, [name, `f32 like ${names[0]}`, "bf16"]);
        });
  }
});
