// The request of a run directory, from which esft resume goes on: a byte that is not as it was written is told, and what somebody
// changed and sealed again, or unsealed, is taken as it says.

import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { readJob, readRunJob } from "../../../lib/cli/job.ts";
import { sha256 } from "../../../lib/files/hash.ts";
import { sealedJson } from "../../../lib/files/sealed.ts";
import type { Job } from "../../../lib/train/request.ts";
import type { Case, Format, Mutated } from "../case.ts";
import { mutateBytes, mutateJson } from "../case.ts";
import { jsonOf, toTree } from "../tree.ts";
import { flat, judgeJob } from "./job.ts";
import { resealed } from "./seeds.ts";

type Json = Record<string, unknown>;

const [REQUEST, EXPERTS] = ["request.json", "experts.json"];
const SET = '{"experts": {"1": [0]}, "shared_experts": false, "non_expert_modules": false}';
const KEPT = {
  model: "/m", steps: 5, rowsPerStep: 4, seed: 3, evalFraction: 0.1, keep: "last", optimizer: { lr: 0.25, schedule: "cosine" }, data: { template: "esft", maxLength: 64, file: "/rows.jsonl" },
  evalData: "/held.jsonl", method: { type: "esft", experts: EXPERTS, sharedExperts: false }, outDir: ".", device: "cpu", precision: "f32",
}; // prettier-ignore

export const request: Format = {
  name: "request",
  async open(dir) {
    const [clean, own] = [join(dir, "clean"), join(dir, "own")];
    for (const folder of [clean, own]) {
      mkdirSync(folder);
      writeFileSync(join(folder, EXPERTS), SET);
      writeFileSync(join(folder, REQUEST), sealedJson({ ...KEPT, expertsSha256: sha256(SET) }));
    }
    writeFileSync(join(dir, "least.json"), JSON.stringify({ model: "/m", data: "/rows.jsonl", method: "full", outDir: "o" }));
    const rest = flat(await readJob(join(dir, "least.json"), {}, {}));
    return (dice): Case => {
      const way = dice.top.below(8);
      const name = way < 1 ? EXPERTS : REQUEST;
      const before = readFileSync(join(clean, name));
      let sealed = false;
      const mutated = ((): Mutated => {
        if (way < 3) return mutateBytes(before, dice);
        const changed = mutateJson(toTree(way < 6 ? { ...KEPT, expertsSha256: sha256(SET) } : KEPT), dice);
        const again = way < 6 ? resealed(changed.bytes) : null;
        if (again === null) return changed;
        sealed = true;
        return { ...changed, bytes: Buffer.from(again.text) };
      })();
      const { bytes, steps } = mutated;
      const intact = Buffer.compare(bytes, before) === 0;
      return {
        steps: [name, ...steps],
        same: intact || (way >= 3 && mutated.same),
        files: { [name]: bytes },
        file: own,
        parse: async () => {
          writeFileSync(join(own, name), bytes);
          try {
            return await readRunJob(own, {}, {});
          } finally {
            copyFileSync(join(clean, name), join(own, name));
          }
        },
        judge: (found: Job) => {
          const said = jsonOf(name === REQUEST ? bytes : readFileSync(join(clean, REQUEST)))?.value as Json | undefined;
          if (!said) return "accepted what is not JSON with each key once";
          const { sha256: seal, expertsSha256: _, ...job } = said;
          if (!intact && !sealed && seal !== undefined) return "took a damaged request for good";
          const method = job["method"] as Json;
          const experts = method["experts"] === EXPERTS ? { experts: join(own, EXPERTS) } : {};
          return judgeJob({ ...job, outDir: own, method: typeof method === "object" ? { ...method, ...experts } : method }, found, rest);
        },
      };
    };
  },
};
