// Expert sets: what they take, which models they fit, what is kept of them in files. No GPU.
// Alone: npx vitest run test/experts/expert_set.test.ts

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { ExpertSet } from "../../lib/experts/expert_set.ts";
import { tempDir } from "../support/fixture.ts";

const root = tempDir();

describe("an expert set", () => {
  it("is one layer each, one expert each, with as many scores as experts", () => {
    const make =
      (...layers: [number, { ranked: number[]; scores?: number[] }][]) =>
      () =>
        new ExpertSet({ layers }, "set.json");
    for (const [made, fault] of [
      [make([-1, { ranked: [0] }]), "set.json, layer -1: expected a 0-based layer index"],
      [make([0.5, { ranked: [0] }]), "set.json, layer 0.5: expected a 0-based layer index"],
      [make([1, { ranked: [0] }], [1, { ranked: [1] }]), "set.json, layer 1: expected each layer once, found it twice"],
      [make([1, { ranked: [3, -2] }]), "set.json, layer 1: expected expert ids >= 0, found -2"],
      [make([1, { ranked: [3, 0.5] }]), "found 0.5"],
      [make([1, { ranked: [3, 1, 3] }]), "set.json, layer 1: expected each expert once, found 3 twice"],
      [make([1, { ranked: [3, 1], scores: [1] }]), "set.json, layer 1: expected 2 scores, found 1"],
      [make([1, { ranked: [], scores: [1] }]), "expected 0 scores, found 1"],
    ] as const) {
      expect(made).toThrow(fault);
      expect(made).toThrow(expect.objectContaining({ code: "ERR_CONFIG" }));
    }
    expect(make([7, { ranked: [3, -2] }])).toThrow(expect.objectContaining({ where: { file: "set.json", layer: 7 } }));
    const set = make([10, { ranked: [0] }], [2, { ranked: [12, 3, 0], scores: [0.5, 0.3, 0.1] }])();
    expect([...set.layers]).toEqual([
      [2, { ids: [0, 3, 12], ranked: [12, 3, 0], scores: [0.5, 0.3, 0.1] }],
      [10, { ids: [0], ranked: [0] }],
    ]);
    expect([set.count, set.warnings, set.sharedExperts, set.nonExpertModules, set.rule, set.base]).toEqual([4, [], false, false, undefined, undefined]); // prettier-ignore
  });

  it("fits a model when its layers and experts are there, and something trains", () => {
    const layout = new Map([[1, 4], [3, 4]]); // prettier-ignore
    const check = (init: ConstructorParameters<typeof ExpertSet>[0]) => () => new ExpertSet(init).validate(layout);
    expect(check({ layers: [[2, { ranked: [] }]] })).toThrow(
      "expert set: expected layers with routed experts (1, 3), found layer 2; was it made for another model?",
    );
    expect(check({ layers: [[2, { ranked: [1] }]] })).toThrow(expect.objectContaining({ code: "ERR_CONFIG", where: { layer: 2 } }));
    expect(check({ layers: [[1, { ranked: [0, 9, 4] }]] })).toThrow(
      expect.objectContaining({
        message: "expert set, layer 1: expected expert ids below 4, found 4; was it made for another model?",
        where: { layer: 1, expert: 4 },
      }),
    );
    expect(check({ layers: [[1, { ranked: [3] }]] })).not.toThrow();
    for (const layers of [[], [[1, { ranked: [] }]]] as const) {
      expect(check({ layers })).toThrow("found no expert and both switches off; name experts, or set sharedExperts or nonExpertModules");
      expect(check({ layers, sharedExperts: true })).not.toThrow();
      expect(check({ layers, nonExpertModules: true })).not.toThrow();
    }
  });

  it("keeps all it says when it is saved, and nothing more", async () => {
    const layers = [[1, { ranked: [2, 0], scores: [0.5, 0.25] }], [4, { ranked: [1] }]] as const; // prettier-ignore
    const bare = new ExpertSet({ layers });
    const native = { format: "esft-experts", version: 1, sharedExperts: false, nonExpertModules: false };
    const list = [{ layer: 1, experts: [2, 0], scores: [0.5, 0.25] }, { layer: 4, experts: [1] }]; // prettier-ignore
    expect(JSON.parse(JSON.stringify(bare.toJSON()))).toEqual({ ...native, layers: list });
    const facts = { rule: { p: 0.5 }, base: "f", warnings: ["w"] };
    const full = new ExpertSet({ layers, sharedExperts: true, nonExpertModules: true, ...facts });
    expect(full.toJSON()).toMatchObject({ ...native, ...facts, sharedExperts: true, nonExpertModules: true, layers: list });
    for (const format of [undefined, "native"] as const) {
      await full.save(join(root, "set.json"), { format } as object);
      expect((await ExpertSet.load(join(root, "set.json"))).toJSON()).toEqual(full.toJSON());
    }
    const switched = full.with({ sharedExperts: false });
    expect(switched.toJSON()).toEqual({ ...full.toJSON(), sharedExperts: false });
    expect(full.toEsftConfig()).toBe('{"experts": {"1": [2, 0], "4": [1]}, "shared_experts": true, "non_expert_modules": true}');
    expect(ExpertSet.fromEsftConfig(JSON.parse(full.toEsftConfig())).toJSON()).toMatchObject({
      sharedExperts: true,
      nonExpertModules: true,
    });
    for (const text of ["5", "null", '"format"', "[]"]) {
      writeFileSync(join(root, "set.json"), text);
      await expect(ExpertSet.load(join(root, "set.json"))).rejects.toMatchObject({
        code: "ERR_CONFIG",
        message: expect.stringMatching(/set\.json/) as string,
      });
    }
    expect(() => ExpertSet.fromJSON({})).toThrow(/^expert set/);
    expect(() => ExpertSet.fromEsftConfig({})).toThrow(/^expert_cfg\.json/);
  });
});
