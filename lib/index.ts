// The public surface: re-exports and nothing else.

export { MoeModel } from "./moe_model.ts";
export type { LoadOptions } from "./moe_model.ts";
export { Dataset, formatPreview } from "./data/dataset.ts";
export { loadTokenizer, Tokenizer } from "./text/tokenizer.ts";
export { openCheckpoint } from "./files/checkpoint.ts";
export { Profile } from "./experts/profile.ts";
export { ExpertSet } from "./experts/expert_set.ts";
export { selectExperts } from "./experts/select.ts";
export { selectRandom } from "./experts/select_random.ts";
export { readTraces } from "./experts/traces.ts";
export { diagnoseSelection } from "./experts/diagnose.ts";
export { Adapter } from "./adapter/adapter.ts";
export { openAdapter, saveEsftAdapter } from "./adapter/esft_layout.ts";
export { mergeAdapter, verifyMerge } from "./adapter/merge.ts";
export { TrainingRun } from "./train/run.ts";
export type { TrainRequest, TrainResult } from "./train/run.ts";
export type { TrainEvent } from "./train/events.ts";
export type { Evaluation } from "./train/evaluate.ts";
export { trainSchema, methodSchema, dataSchema } from "./options.ts";
export { Device, Graph, Tensor, TensorList, MappedFile } from "./tensor.ts";
export { openDevice } from "./device.ts";
export type { DeviceChoice, OpenedDevice } from "./device.ts";
export * as ops from "./ops.ts";
export { modelSpec, supportedModelTypes } from "./model/families/index.ts";
export type { ModelSpec } from "./model/spec.ts";
export * from "./errors.ts";
