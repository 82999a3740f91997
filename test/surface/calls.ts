// Every function of the public surface with good arguments, and what plain JavaScript may put in their place.

import { existsSync, mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import * as esft from "../../lib/index.ts";
import { writeComparison } from "../../lib/compare/result.ts";
import { snapshotFolder } from "../../lib/hub/layout.ts";
import { writeRows } from "../cli/support.ts";
import { sample } from "../compare/sample.ts";
import { tinyOlmoe, toyRows, writeTinyModel } from "../support/tiny_model.ts";

const COMMIT = "0123456789".repeat(4);

/** What a caller without types may pass. */
export const hostile: readonly (readonly [string, unknown])[] = [
  ["undefined", undefined],
  ["null", null],
  ["true", true],
  ["0", 0],
  ["-1", -1],
  ["1.5", 1.5],
  ["NaN", NaN],
  ["1e300", 1e300],
  ["10n", 10n],
  ["a symbol", Symbol("s")],
  ['""', ""],
  ["a word", "word"],
  ["a path with NUL", "x\0y"],
  ["a long path", "x".repeat(5000)],
  ["a deep path", "x/".repeat(5000)],
  ["[]", []],
  ["[null]", [null]],
  ["a list of words", ["x"]],
  ["{}", {}],
  ["an object without prototype", Object.create(null)],
  ["an object of null", { data: null, options: null, layers: null, file: null }],
  ["an instance", new (class Thing {})()],
  ["a date", new Date(0)],
  ["a map", new Map()],
  ["a function", () => 1],
  ["a promise", Promise.resolve(1)],
  [
    "a getter that throws",
    Object.defineProperties({}, Object.fromEntries(["signal", "dir", "base", "data", "layers", "p", "overwrite", "verify", "threads", "format", "rows", "then", "length"].map((key) => [key, { enumerable: true, get: () => { throw new Error("mine"); } }]))), // prettier-ignore
  ],
  [
    "a proxy that throws",
    new Proxy({}, { get: () => { throw new Error("mine"); }, ownKeys: () => { throw new Error("mine"); }, getPrototypeOf: () => { throw new Error("mine"); } }), // prettier-ignore
  ],
];

type Call = (...args: any[]) => unknown; // eslint-disable-line typescript/no-explicit-any
export interface PublicCall {
  readonly call: Call;
  /** Arguments that are accepted, made anew for each call. */
  readonly args: () => readonly unknown[];
  /** Values of that position that are good, by name. */
  readonly good?: readonly string[];
}

/** A model, an adapter, a profile and everything that is called with them, below `root`. */
export async function publicCalls(root: string): Promise<{ calls: Record<string, PublicCall>; close: () => Promise<void> }> {
  const at = (name: string): string => join(root, name);
  await writeTinyModel(at("model"), tinyOlmoe);
  process.env["HF_HOME"] = at("hub");
  await writeTinyModel(snapshotFolder(at("hub/hub"), "tiny/model", COMMIT), tinyOlmoe);
  const data = writeRows(at("rows.jsonl"), toyRows(8));
  const model = await esft.MoeModel.fromPretrained(at("model"), { device: "cpu", threads: 1 });
  const options = { data: { maxLength: 64 }, tokens: 64 };
  const profile = await model.profile(data, options);
  await profile.save(at("profile.json"));
  const experts = profile.select({ topKPerLayer: 1 });
  await experts.save(at("experts.json"));
  const run = {
    data: { file: data, maxLength: 64 },
    method: { type: "esft", experts },
    steps: 1,
    rowsPerStep: 2,
    evalFraction: 0,
  } as const;
  const result = await model.train({ ...run, outDir: at("adapter") }).result;
  const adapter = result.adapter!;
  const checkpoint = model.checkpoint;
  const lora = (await model.train({ ...run, method: { type: "lora", rank: 1, targets: "attention" }, outDir: at("lora") }).result).adapter!;
  mkdirSync(at("traces"));
  mkdirSync(at("comparison"));
  await writeComparison(at("comparison"), sample);
  await esft.evaluateAnswers(model, data, { metrics: "exact", maxTokens: 2, file: at("answers.jsonl") });
  const tokenizer = await model.tokenizer();
  const dataset = esft.Dataset.fromFile(data);
  const device = new esft.Device({ kind: "ref" });
  const tensor = device.tensor("f32", [2, 2], [1, 2, 3, 4]);
  const [preview] = await dataset.preview(1, { tokenizer });
  let made = 0;
  const fresh = (): string => {
    const name = at(`new-${made++}`);
    if (existsSync(name)) rmSync(name, { recursive: true });
    return name;
  };
  const of =
    (object: object, method: string): Call =>
    (...args) =>
      ((object as Record<string, Call>)[method] as Call).apply(object, args);
  const calls: Record<string, PublicCall> = {
    "MoeModel.fromPretrained": { call: async (...a) => { const m = await (esft.MoeModel.fromPretrained as Call)(...a) as esft.MoeModel; m.dispose(); }, args: () => [at("model"), { threads: 1, device: "cpu" }] }, // prettier-ignore
    "model.identity": { call: of(model, "identity"), args: () => [{}] },
    "model.encode": { call: of(model, "encode"), args: () => [data, { maxLength: 64 }, {}] },
    "model.profile": { call: of(model, "profile"), args: () => [data, options] },
    "model.evaluate": { call: of(model, "evaluate"), args: () => [data, { maxLength: 64 }, {}] },
    "model.train": { call: (r) => model.train(r as never).result, args: () => [{ ...run, outDir: fresh() }] },
    "model.applyAdapter": { call: async (...a) => { await (of(model, "applyAdapter")(...a) as Promise<unknown>); model.removeAdapter(); }, args: () => [at("adapter"), {}] }, // prettier-ignore
    "model.generate": { call: (...a) => (of(model, "generate")(...a) as esft.Generation).result(), args: () => [[1, 2], { maxTokens: 2 }] }, // prettier-ignore
    "model.chat": { call: (...a) => (of(model, "chat")(...a) as esft.Generation).result(), args: () => [[{ role: "user", content: "a" }], { maxTokens: 2 }] }, // prettier-ignore
    "model.adapters.add": { call: async (...a) => { await (of(model.adapters, "add")(...a) as Promise<unknown>); model.adapters.remove("a"); }, args: () => ["a", at("lora")] }, // prettier-ignore
    "model.adapters.has": { call: of(model.adapters, "has"), args: () => ["a"] },
    evaluateAnswers: { call: esft.evaluateAnswers as Call, args: () => [model, data, { metrics: "exact", maxTokens: 2 }, {}] },
    plan: { call: esft.plan as Call, args: () => [at("model"), { data, memory: 1e9, method: "lora", time: false, device: "cpu", threads: 1 }] }, // prettier-ignore
    bestOptions: { call: esft.bestOptions as Call, args: () => [{ best: [] }] },
    compare: {
      call: esft.compare as Call,
      args: () => [
        {
          model: at("model"),
          tasks: [{ name: "t", train: data, validation: data, test: data, maxLength: 64 }],
          methods: [{ name: "m", method: { type: "lora", rank: 1, targets: "attention" }, lr: 0.01 }],
          steps: 1,
          rowsPerStep: 2,
        },
        { out: fresh(), model },
      ],
    },
    readComparison: { call: esft.readComparison as Call, args: () => [at("comparison")] },
    readAnswers: { call: esft.readAnswers as Call, args: () => [at("answers.jsonl")] },
    metricsByName: { call: esft.metricsByName as Call, args: () => ["exact,bleu", "metric"] },
    "Dataset.fromFile": { call: async (...a) => (esft.Dataset.fromFile as Call)(...a), args: () => [data, {}] },
    "Dataset.fromFile, encoded": {
      call: async (...a) => ((esft.Dataset.fromFile as Call)(...a) as esft.Dataset).encode({ tokenizer }),
      args: () => [data, {}],
    },
    "Dataset.fromRows": {
      call: async (...a) => ((esft.Dataset.fromRows as Call)(...a) as esft.Dataset).encode({ tokenizer }),
      args: () => [toyRows(2), {}],
    },
    "Dataset.from": {
      call: async (...a) => ((esft.Dataset.from as Call)(...a) as esft.Dataset).encode({ tokenizer }),
      args: () => [toyRows(2).values(), {}],
    },
    "dataset.encode": { call: of(dataset, "encode"), args: () => [{ tokenizer }, {}] },
    "dataset.lint": { call: of(dataset, "lint"), args: () => [{ tokenizer }, {}] },
    "dataset.preview": { call: of(dataset, "preview"), args: () => [1, { tokenizer }] },
    formatPreview: { call: esft.formatPreview, args: () => [preview] },
    loadTokenizer: { call: esft.loadTokenizer, args: () => [at("model")] },
    "Tokenizer.load": { call: esft.Tokenizer.load.bind(esft.Tokenizer), args: () => [at("model")] },
    "tokenizer.encode": { call: of(tokenizer, "encode"), args: () => ["text", {}] },
    "tokenizer.encodeRaw": { call: of(tokenizer, "encodeRaw"), args: () => ["text"] },
    "tokenizer.decode": { call: of(tokenizer, "decode"), args: () => [[1, 2], {}] },
    "tokenizer.decodeStream": { call: of(tokenizer, "decodeStream"), args: () => [{}] },
    "tokenizer.tokenToId": { call: of(tokenizer, "tokenToId"), args: () => ["a"] },
    "tokenizer.idToToken": { call: of(tokenizer, "idToToken"), args: () => [3] },
    "tokenizer.chatTemplate": { call: of(tokenizer, "chatTemplate"), args: () => ["default", false] },
    openCheckpoint: { call: esft.openCheckpoint as Call, args: () => [at("model"), {}] },
    pullModel: { call: esft.pullModel as Call, args: () => [`tiny/model@${COMMIT}`, {}] },
    "new Profile": {
      call: (...a) => new (esft.Profile as unknown as new (...a: unknown[]) => unknown)(...a),
      args: () => [withoutFormat(profile.data), "file"],
    },
    "Profile.load": { call: esft.Profile.load.bind(esft.Profile), args: () => [at("profile.json")] },
    "Profile.merge": { call: esft.Profile.merge.bind(esft.Profile) as Call, args: () => [[profile, profile]] },
    "profile.save": { call: of(profile, "save"), args: () => [fresh()] },
    "profile.select": { call: of(profile, "select"), args: () => [{ p: 0.5 }] },
    "profile.scores": { call: of(profile, "scores"), args: () => [0, { score: "token" }] },
    "profile.layer": { call: of(profile, "layer"), args: () => [0] },
    "profile.topK": { call: of(profile, "topK"), args: () => [0] },
    "profile.layerMass": { call: of(profile, "layerMass"), args: () => [0] },
    "new ExpertSet": { call: (init) => new esft.ExpertSet(init as never), args: () => [{ layers: [[0, { ranked: [1] }]] }] },
    "ExpertSet.load": { call: esft.ExpertSet.load.bind(esft.ExpertSet), args: () => [at("experts.json")] },
    "ExpertSet.fromJSON": { call: esft.ExpertSet.fromJSON.bind(esft.ExpertSet) as Call, args: () => [experts.toJSON(), "file"] },
    "ExpertSet.fromEsftConfig": {
      call: esft.ExpertSet.fromEsftConfig.bind(esft.ExpertSet) as Call,
      args: () => [JSON.parse(experts.toEsftConfig()), "file"],
    },
    "experts.save": { call: of(experts, "save"), args: () => [fresh(), {}] },
    "experts.with": { call: of(experts, "with"), args: () => [{}] },
    "experts.equals": { call: of(experts, "equals"), args: () => [experts] },
    "experts.validate": { call: of(experts, "validate"), args: () => [profile.layout] },
    "experts.ids": { call: of(experts, "ids"), args: () => [0] },
    "experts.has": { call: of(experts, "has"), args: () => [0, 0] },
    makeReport: { call: esft.makeReport as Call, args: () => [[at("profile.json")], { title: "t" }] },
    "makeReport, of a run": { call: esft.makeReport as Call, args: () => [at("adapter"), {}] },
    readRunLog: { call: esft.readRunLog as Call, args: () => [join(at("adapter"), "events.jsonl")] },
    selectExperts: { call: esft.selectExperts as Call, args: () => [profile, { p: 0.5 }] },
    selectRandom: { call: esft.selectRandom as Call, args: () => [experts, { experts: 6, seed: 1 }] },
    readTraces: { call: esft.readTraces as Call, args: () => [join(import.meta.dirname, "../fixtures/traces"), {}] },
    diagnoseSelection: { call: esft.diagnoseSelection as Call, args: () => [experts, profile] },
    "new Adapter": {
      call: (init) => new esft.Adapter(init as never),
      args: () => [{ ...adapter, tensors: adapter.tensors.values(), attached: adapter.attached.values() }],
    },
    "Adapter.load": { call: esft.Adapter.load.bind(esft.Adapter) as Call, args: () => [at("adapter"), {}] },
    "adapter.save": { call: of(adapter, "save"), args: () => [fresh(), {}] },
    "adapter.read": { call: of(adapter, "read"), args: () => [[...adapter.tensors.keys()][0]] },
    "adapter.with": { call: of(adapter, "with"), args: () => [{}] },
    "adapter.checkBase": { call: of(adapter, "checkBase"), args: () => [checkpoint, {}] },
    openAdapter: { call: esft.openAdapter as Call, args: () => [at("adapter"), {}] },
    saveEsftAdapter: { call: esft.saveEsftAdapter as Call, args: () => [adapter, fresh(), {}] },
    savePeftAdapter: { call: esft.savePeftAdapter as Call, args: () => [lora, checkpoint, fresh(), {}] },
    foldAdapter: { call: esft.foldAdapter as Call, args: () => [checkpoint, lora] },
    mergeAdapter: { call: esft.mergeAdapter as Call, args: () => [checkpoint, adapter, fresh(), {}] },
    verifyMerge: { call: esft.verifyMerge as Call, args: () => [checkpoint, adapter, at("model"), {}] },
    openDevice: { call: (...a) => { (esft.openDevice as Call)(...a) as esft.OpenedDevice; }, args: () => ["cpu", { threads: 1 }] }, // prettier-ignore
    "new Device": { call: (o) => new esft.Device(o as never).dispose(), args: () => [{ kind: "ref" }] },
    "new MappedFile": { call: (path) => new esft.MappedFile(path as never).dispose(), args: () => [at("model/model.safetensors")] },
    "device.empty": { call: of(device, "empty"), args: () => ["f32", [2, 2]] },
    "device.tensor": { call: of(device, "tensor"), args: () => ["f32", [2], [1, 2]] },
    "device.list": { call: of(device, "list"), args: () => [[tensor]] },
    "device.mapped": { call: of(device, "mapped"), args: () => [new esft.MappedFile(at("model/model.safetensors")), 0, "u8", [8]] },
    "new TensorList": { call: (list) => new esft.TensorList(list as never), args: () => [[tensor]] },
    "tensor.view": { call: of(tensor, "view"), args: () => [0, [2], {}] },
    "tensor.rows": { call: of(tensor, "rows"), args: () => [0, 1] },
    "tensor.columns": { call: of(tensor, "columns"), args: () => [0, 1] },
    "tensor.reshape": { call: of(tensor, "reshape"), args: () => [[4]] },
    "tensor.write": { call: of(tensor, "write"), args: () => [[1, 2, 3, 4]] },
    "tensor.copyFromMap": { call: of(tensor, "copyFromMap"), args: () => [new esft.MappedFile(at("model/model.safetensors")), 0] },
    modelSpec: { call: esft.modelSpec as Call, args: () => [tinyOlmoe, "config.json"] },
  };
  return { calls, close: async () => { device.dispose(); await model[Symbol.asyncDispose](); } }; // prettier-ignore
}

function withoutFormat({ format: _, version: __, ...rest }: esft.Profile["data"]): object {
  return rest;
}
