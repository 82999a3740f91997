// The public surface: re-exports and nothing else.

export { MoeModel } from "./moe_model.ts";
export type { LoadOptions } from "./moe_model.ts";
export { Dataset, formatPreview } from "./io/dataset.ts";
export { loadTokenizer, Tokenizer } from "./io/tokenizer.ts";
export { openCheckpoint } from "./io/checkpoint.ts";
export { Profile } from "./esft/profile.ts";
export { ExpertSet } from "./esft/expert_set.ts";
export { selectExperts, selectRandom } from "./esft/select.ts";
export { readTraces } from "./esft/traces.ts";
export { diagnoseSelection } from "./esft/diagnose.ts";
export { Adapter } from "./esft/adapter.ts";
export { openAdapter, saveEsftAdapter } from "./esft/adapter_esft.ts";
export { mergeAdapter, verifyMerge } from "./esft/merge.ts";
export { TrainingRun } from "./train/run.ts";
export type { TrainRequest, TrainResult } from "./train/run.ts";
export type { TrainEvent } from "./train/events.ts";
export type { Evaluation } from "./train/evaluate.ts";
export { trainSchema, methodSchema, dataSchema } from "./train/options.ts";
export { Device, Graph, Tensor, TensorList, MappedFile } from "./tensor.ts";
export { openDevice } from "./device.ts";
export type { DeviceChoice, OpenedDevice } from "./device.ts";
export * as ops from "./ops.ts";
export { modelSpec, supportedModelTypes } from "./model/families/index.ts";
export type { ModelSpec } from "./model/spec.ts";
export * from "./errors.ts";
