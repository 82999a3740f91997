// A comparison as `esft compare` leaves it, made up: one task, two methods, two rates, two seeds.

import type { CompareCell, Comparison, Figures } from "../../lib/compare/result.ts";

const figures = (loss: number): Figures => ({ loss, accuracy: 0.5, supervised: 10, tokens: 40 });
const file = (name: string) => ({ file: `${name}.jsonl`, sha256: "0".repeat(64) });
const cell = (method: string, lr: number, seed: number, loss: number, chosen: boolean): CompareCell => ({
  id: `law/${method}/lr-${lr.toExponential()}/seed-${seed}`,
  task: "law",
  method,
  lr,
  seed,
  chosen,
  diverged: null,
  steps: 4,
  tokens: 640,
  trainedParameters: method === "full" ? 1000 : 100,
  trainedShare: method === "full" ? 1 : 0.1,
  stateBytes: method === "full" ? 16000 : 1600,
  activationBytes: 4096,
  adapterBytes: method === "full" ? 2000 : 200,
  experts: method === "full" ? null : 3,
  coverage: method === "full" ? null : 0.4,
  coverageFrom: method === "full" ? null : "training",
  validation: figures(loss),
  test: chosen ? figures(loss + 0.1) : null,
  others: chosen ? { general: figures(3) } : null,
  answers: null,
});

export const sample: Comparison = {
  result: {
    format: "esft-compare",
    version: 1,
    model: { name: "tiny", type: "olmoe", fingerprint: "1".repeat(64), parameters: 1000 },
    device: { backend: "cpu", precision: "f32" },
    plan: {},
    seeds: [1, 2],
    tasks: [{ name: "law", train: file("train"), validation: file("validation"), test: file("test"), answers: null }],
    others: [{ name: "general", ...file("general") }],
    methods: [
      { name: "esft", type: "esft", lr: [0.001, 0.01] },
      { name: "full", type: "full", lr: [0.001, 0.01] },
    ],
    measures: [
      { key: "validation.loss", label: "validation loss", better: "lower" },
      { key: "test.loss", label: "test loss", better: "lower" },
      { key: "others.general.loss", label: "loss on general", better: "lower" },
    ],
    base: {
      tasks: { law: { validation: figures(3), test: figures(3.1), answers: null } },
      others: { general: figures(2.5) },
    },
    cells: [
      ...[1, 2].map((seed) => cell("esft", 0.001, seed, 2 + seed / 10, true)),
      ...[1, 2].map((seed) => cell("esft", 0.01, seed, 2.5, false)),
      ...[1, 2].map((seed) => cell("full", 0.001, seed, 2.2 + seed / 5, true)),
      ...[1, 2].map((seed) => cell("full", 0.01, seed, 2.7, false)),
    ],
    rule: "the rate of the lowest mean validation loss over the seeds",
    choices: [
      { task: "law", method: "esft", lr: 0.001, candidates: [{ lr: 0.001, validationLoss: { mean: 2.15, sd: 0.07, n: 2 } }] },
      { task: "law", method: "full", lr: 0.001, candidates: [{ lr: 0.001, validationLoss: { mean: 2.5, sd: 0.14, n: 2 } }] },
    ],
    summary: [
      { task: "law", method: "base", lr: null, values: { "test.loss": { mean: 3.1, sd: null, n: 1 } } },
      { task: "law", method: "esft", lr: 0.001, values: { "test.loss": { mean: 2.25, sd: 0.07, n: 2 } } },
      { task: "law", method: "full", lr: 0.001, values: { "test.loss": { mean: 2.6, sd: 0.14, n: 2 } } },
    ],
    differences: [{ a: "esft", b: "full", measure: "test.loss", mean: -0.35, sd: 0.07, n: 2, low: -0.99, high: 0.29 }],
  },
  times: {
    format: "esft-compare-times",
    version: 1,
    device: { instructionSet: "avx2", threads: 2 },
    cells: {
      "law/esft/lr-1e-3/seed-1": {
        secondsPerStep: 0.5,
        stepSeconds: 2,
        tokensPerSecond: 320,
        trainSeconds: 2.5,
        evaluationSeconds: 0.3,
      },
    },
    profileSeconds: { law: 1.5 },
  },
};
