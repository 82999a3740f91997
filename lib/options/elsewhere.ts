// What other fine-tuning tools call an option, and what it is here: axolotl (A), LLaMA-Factory (L), Hugging Face's TrainingArguments and
// TRL (T), ms-swift (S), OpenAI's fine-tuning jobs (O) and the scripts of deepseek-ai/ESFT (E). Errors about unknown keys and flags ask it.

/**
 * `{path}` in an answer is an option of ours, by its path in the schema of a training job; the reader gets its flag or its key. Names are
 * compared without case, hyphens and underscores.
 */
const TABLE: readonly (readonly [names: string, answer: string])[] = [
  // Updates and rates
  ["learning_rate", "{optimizer.lr} (default 1e-5)"], // A L T S
  ["learning_rate_multiplier", "{optimizer.lr}, the learning rate itself (default 1e-5)"], // O
  [
    "lr_scheduler lr_scheduler_type lr_decay_style",
    "{optimizer.schedule}: constant, linear, cosine or wsd, with {optimizer.warmupSteps} or {optimizer.warmupRatio}",
  ], // A; L T S
  ["lr_warmup_fraction warmup_proportion", "{optimizer.warmupRatio}, a share of the updates; or {optimizer.warmupSteps}, a number of them"], // A L T S
  ["lr_warmup_iters num_warmup_steps", "{optimizer.warmupSteps}"],
  ["num_decay_steps lr_wsd_decay_iters", "{optimizer.decaySteps}, with {optimizer.schedule} wsd"], // T; S
  ["decay_type lr_wsd_decay_style", "{optimizer.decayShape}, with {optimizer.schedule} wsd: linear, cosine or sqrt"], // T; S
  [
    "lr_decay_iters num_training_steps",
    "nothing to set: a schedule is as long as the run ({steps} or {epochs}), and that of a stage as the stage",
  ], // S; T
  [
    "lr_scheduler_kwargs lr_scheduler_args",
    "options of their own: {optimizer.minLrRatio}, and of wsd {optimizer.decaySteps} or {optimizer.decayRatio}, and {optimizer.decayShape}",
  ], // L T S
  ["min_lr_rate", "{optimizer.minLrRatio}, the final learning rate as a share of {optimizer.lr}"], // T
  ["cosine_min_lr_ratio min_lr", "{optimizer.minLrRatio}, the final learning rate as a share of {optimizer.lr}"], // A; S
  [
    "batch_size micro_batch_size per_device_train_batch_size per_gpu_train_batch_size train_batch_size per_device_batch_size",
    "{rowsPerStep}, rows per update (batch size times accumulation steps times devices), and {microBatch}, rows per forward and backward, for memory",
  ], // O; A; L T S
  ["global_batch_size effective_batch_size", "{rowsPerStep}, rows per update"],
  [
    "gradient_accumulation_steps grad_accum",
    "nothing to set: {rowsPerStep} is batch size times accumulation steps, taken {microBatch} rows at a time, and the gradients accumulate",
  ], // A L T S
  [
    "num_train_epochs num_epochs n_epochs train_epochs epoch",
    "{epochs}, also parts of one, in place of {steps}: an epoch has packed rows / {rowsPerStep} updates",
  ], // L T S; A; O
  ["max_steps total_steps train_iters iters num_steps", "{steps}, the number of updates"], // A L T S
  [
    "optim optimizer_type optimizer_name",
    "nothing to set: the optimizer is AdamW; its options are {optimizer.lr}, {optimizer.weightDecay} and so on",
  ],
  ["adam_beta1", "{optimizer.beta1}"], // A L T S
  ["adam_beta2", "{optimizer.beta2}"],
  ["adam_epsilon adam_eps", "{optimizer.eps}"],
  ["max_grad_norm clip_grad gradient_clipping grad_clip", "{optimizer.clipNorm}"], // A L T S

  // Data
  [
    "dataset datasets dataset_name dataset_path dataset_dir train_dataset train_data train_file train_files training_file data_path data_files",
    "{data.file}, a file on this machine (JSONL, JSON, CSV or Parquet), or a list of files",
  ], // L S; A; T; E; O
  [
    "val_dataset eval_dataset test_datasets validation_file validation_data val_data valid_data eval_file validation_dataset",
    "{evalData}, a file; without it {evalFraction} of the data is held out",
  ], // S; L T; A; O
  ["val_set_size val_size split_dataset_ratio test_size validation_split", "{evalFraction}, a share of the data (0.02 = 2 %)"], // A; L; S
  [
    "cutoff_len sequence_len max_seq_length max_seq_len seq_length seq_len model_max_length",
    "{data.maxLength}, tokens per row (default 1024)",
  ], // L; A; T S; E
  ["truncation_strategy truncation_mode truncation_side", "{data.onOverflow}: error, drop, truncateLeft or truncateRight"], // S; T
  [
    "sample_packing neat_packing multipack packed pack",
    "{data.packing}: document (the default) packs several documents into a row that do not see each other, none packs nothing",
  ], // A; L
  [
    "chat_template chat_template_path chat_template_jinja prompt_template",
    "{data.template}: tokenizer (the template that came with the model, the default), esft, or a Jinja file",
  ], // A T; S
  [
    "train_on_inputs train_on_prompt train_on_input mask_prompt mask_inputs completion_only_loss assistant_only_loss mask_history roles_to_train",
    'nothing to set: only what assistant messages say is trained on, and "train": false in a message of a row leaves it out',
  ], // A; L; T
  ["loss_scale", 'no such option: the loss has no weights, and "train" or "loss": false in a message of a row leaves it out'], // S
  ["dataset_type chat_format formatting dataset_format", "{data.shape}; without it the keys of each row decide"],
  ["dataset_text_field text_column prompt_column", 'no such option: rows of plain text have the key "text", with {data.shape} text'], // T
  [
    "max_samples max_train_samples sample_size",
    "rows beside a file in the list that data may be in a YAML job: so many of its rows, drawn by {seed}",
  ], // L
  [
    "interleave_probs interleave_prob mix_strategy dataset_weights dataset_mixer mixture_weights",
    "weights of files: --data a.jsonl=2 --data b.jsonl=1 on the command line, in a YAML job weight beside each file in the list that data may be",
  ], // L; S
  [
    "preprocessing_num_workers dataset_num_proc dataset_processes dataloader_num_workers streaming",
    "no such option: rows are read and encoded as the run begins",
  ], // L; T S; A
  ["data_seed shuffle_seed dataset_shuffle_seed", "{seed}, for the order of the data and the held-out split"],
  ["strict strict_data", "{data.onBadRow}: error or skip"], // S
  [
    "pad_to_sequence_len pad_to_max_length padding_free group_by_length",
    "nothing to set: rows are packed ({data.packing}) and never padded",
  ], // A; L; S; T
  ["train_split dataset_split split", "no such option: a file holds the rows to train on; {evalFraction} holds some of them out"], // T; S
  [
    "overwrite_cache dataset_prepared_path load_from_cache_file",
    "nothing to set: rows are encoded anew as a run begins, and nothing is cached",
  ], // L; A; S
  [
    "remove_unused_columns ignore_data_skip",
    "nothing to set: keys of a row that its shape does not have are left alone, and a resumed run goes on at its row",
  ], // T

  // The model, and what trains
  [
    "base_model base_model_path model_name_or_path model_name model_path model_id pretrained_model_name_or_path model_dir",
    "{model}, a checkpoint directory on this machine; nothing is downloaded",
  ], // A; E; L T; S
  ["lora_r lora_rank r", "{method.rank}, with {method.type} lora"], // A T; L S
  ["lora_alpha", "{method.alpha}, with {method.type} lora (default: twice the rank)"], // A L T S
  [
    "lora_target_modules lora_target target_modules lora_target_linear lora_target_parameters",
    "{method.targets}, with {method.type} lora: attention, dense, shared, router, experts, head, linear, all-linear, or names of modules",
  ], // A T; L; S
  ["lora_dropout", "{method.dropout}, with {method.type} lora or perft"], // A L T S
  ["finetuning_type train_type tuner_type sft_type use_peft adapter_type", "{method.type}: esft, lora, perft or full"], // L; S; T
  ["adapter", "{method.type}: esft, lora, perft or full. To train on from an adapter, merge it first (esft merge)"], // A
  [
    "load_in_4bit load_in_8bit quantization_bit quant_method quant_bits quantization_config bnb_4bit_quant_type",
    "no such option: nothing is quantised",
  ], // A T; L; S
  ["use_rslora peft_use_rslora", "{method.rslora}, with {method.type} lora"], // A; L S
  ["rank_pattern alpha_pattern", "{method.ranks} and {method.alphas}, with {method.type} lora"], // S
  [
    "modules_to_save lora_modules_to_save additional_target",
    "no such option: LoRA's {method.targets} alone train; {method.type} esft with {method.nonExpertModules} trains all but the experts that are not selected",
  ], // A T; S; L
  ["init_lora_weights pissa_init", "{method.init}: kaiming or perft"], // T S; L
  ["lora_bias use_lorap loraplus_lr_ratio loraplus_lr_embedding", "no such option: LoRA has no biases, and one {optimizer.lr} for A and B"], // T S; A; L
  ["use_dora peft_use_dora", "no such option: LoRA comes in its plain form"], // T; A; L S
  [
    "unfrozen_parameters trainable_parameters trainable_parameters_regex freeze_parameters freeze_parameters_ratio freeze_trainable_modules",
    "{method.experts} says which experts train, {method.sharedExperts} and {method.nonExpertModules} what else; all else is frozen",
  ], // A; S; L
  ["expert_config expert_cfg expert_config_path esft_config_path", "{method.experts}"], // E
  ["top_p score_threshold", "{method.select.p}"], // E
  ["score_function", "{method.select.score}: token, gate or gradient"], // E
  ["router_aux_loss_coef moe_aux_loss_coef moe_aux_loss_coeff aux_loss_alpha", "{auxLoss}, only for runs that train the router"], // T; L; S

  // The machine
  [
    "bf16 fp16 tf32 float16 bfloat16 torch_dtype dtype compute_dtype mixed_precision",
    "{precision}: f32 or bf16, the operands of matrix products; what trains is kept in f32 in any case, and there is no fp16",
  ], // A L T S
  [
    "gradient_checkpointing use_gradient_checkpointing activation_checkpointing recompute_granularity",
    "no such option: layers below the lowest that trains keep nothing. To save memory lower {microBatch} or {data.maxLength}",
  ], // A L T S
  [
    "flash_attention flash_attn attn_implementation attn_impl sdp_attention sdpa_attention xformers_attention use_flash_attn eager_attention",
    "nothing to set: the attention kernel is built in",
  ], // A; L; T; S
  [
    "deepspeed fsdp fsdp_config ddp ddp_timeout accelerator_config tensor_parallel_size tensor_parallel tensor_model_parallel_size " +
      "expert_parallel_size expert_model_parallel_size ep_size pipeline_model_parallel_size context_parallel_size sequence_parallel_size nproc_per_node num_gpus",
    "no such option: a run computes on one device ({device})",
  ], // A L T S
  ["num_threads n_threads", "{threads}"],
  ["no_cuda use_cpu", "{device} cpu"], // T
  ["local_rank ddp_find_unused_parameters ddp_backend", "no such option: a run computes on one device ({device})"], // T L
  [
    "trust_remote_code use_cache low_cpu_mem_usage",
    "nothing to set: no code of a checkpoint is run, and frozen weights are read where they lie",
  ], // A L T S
  [
    "use_liger_kernel enable_liger_kernel liger_fused_linear_cross_entropy use_unsloth torch_compile",
    "nothing to set: the kernels are built in",
  ],

  // What comes out
  ["output_dir save_dir save_path output output_path suffix", "{outDir}, the run directory"], // A L T S; O
  ["overwrite_output_dir", "no such option: a run begins in a directory of its own; choose another {outDir}"], // L T
  ["save_steps save_interval save_strategy saves_per_epoch save_freq", "{saveEvery}, in updates"], // L T S; A
  ["save_total_limit", "no such option: old checkpoints go by themselves, and the best adapter stays ({keep} says which is delivered)"], // A L T S
  [
    "save_only_model save_safetensors save_opt_states",
    "nothing to set: a checkpoint holds all that going on needs, the adapter is safetensors",
  ], // T; E
  [
    "eval_steps eval_interval eval_strategy evaluation_strategy evals_per_epoch eval_freq do_eval",
    "{evalEvery}, in updates; 0 = only at the start and the end",
  ], // A L T S
  [
    "per_device_eval_batch_size eval_batch_size eval_accumulation_steps",
    "nothing to set: held-out rows are computed as many tokens at a time as training takes",
  ],
  ["max_eval_samples eval_sample_size", "{evalRows}"],
  [
    "logging_steps logging_strategy log_interval log_every log_level logging_dir",
    "nothing to set: every update is an event in events.jsonl of {outDir}",
  ], // A L T S
  [
    "report_to wandb_project wandb_name run_name use_wandb tensorboard_dir use_tensorboard mlflow_tracking_uri",
    "no such option: events.jsonl of {outDir} has every figure; esft train --tensorboard DIR writes them for TensorBoard too, esft watch shows a run",
  ], // A L T S
  ["load_best_model_at_end metric_for_best_model", "{keep}: best (lowest held-out loss, the default) or last"], // L T S
  [
    "early_stopping_patience early_stopping",
    "{earlyStop.patience}, in evaluations without a lower held-out loss (every {evalEvery} updates)",
  ], // A T
  ["early_stopping_threshold", "{earlyStop.minDelta}, with {earlyStop.patience}"], // T
  [
    "resume_from_checkpoint auto_resume_from_checkpoints",
    "no such option: esft resume DIR goes on with a run, esft train --resume with one that is there already",
  ], // A L T S
  ["push_to_hub hub_model_id hub_strategy hub_token", "no such option: nothing leaves this machine; the adapter is in {outDir}"], // A L T S
  ["plot_loss", "no such option: esft report makes a page of a run"], // L
  ["merge_lora merge_and_unload merge_adapter", "no such option: esft merge makes a model of base and adapter"],
  ["do_train do_predict stage rlhf_type task_type trainer_type", "nothing to set: esft train is supervised fine-tuning"], // L; S
  ["hyperparameters training_arguments", "no such level: the options lie at the top, as {steps}, {rowsPerStep}, {optimizer.lr}"], // O
  ["neftune_noise_alpha label_smoothing_factor label_smoothing use_dft_loss", "no such option"], // A L T S
];

const bare = (name: string): string => name.toLowerCase().replace(/[-_ ]/g, "");
const PLACE = /\{([^}]*)\}/g;

const ANSWERS: ReadonlyMap<string, string> = new Map(
  TABLE.flatMap(([names, answer]) => names.split(" ").map((name) => [bare(name), answer] as const)),
);

/**
 * What another tool's option is here; null where no tool is known to have it, or where an option that the answer names does not exist.
 * @param own how an option of ours is written where the reader is: a flag, a key; null where it does not exist
 */
export function elsewhere(name: string, own: (path: string) => string | null): string | null {
  const answer = ANSWERS.get(bare(name));
  if (answer === undefined) return null;
  const written = new Map([...answer.matchAll(PLACE)].map(([, path = ""]) => [path, own(path)] as const));
  if ([...written.values()].includes(null)) return null;
  return answer.replace(PLACE, (_, path: string) => written.get(path) ?? path);
}

/** Options of some methods that another one says in its own words: method, name, the option and its target. */
const BY_METHOD: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  lora: { routerRank: "ranks router", routerAlpha: "alphas router" },
};

/** What an option of other methods is with this one; null where it has no such thing. */
export function withMethod(type: unknown, name: string, value: unknown): string | null {
  const own = typeof type === "string" && Object.hasOwn(BY_METHOD, type) ? BY_METHOD[type]! : {};
  if (!Object.hasOwn(own, name)) return null;
  const shown = typeof value === "number" || typeof value === "string" ? String(value) : "…";
  return `with method ${String(type)}: ${own[name]}=${shown}`;
}

/** Is it one word, written in another way (weight_decay, weight-decay, weightDecay)? */
export const sameWord = (a: string, b: string): boolean => bare(a) === bare(b);

/** The table itself (tests): every name, and every option of ours that an answer names. */
export const foreign = {
  names: TABLE.flatMap(([names]) => names.split(" ")),
  paths: TABLE.flatMap(([, answer]) => [...answer.matchAll(PLACE)].map(([, path = ""]) => path)),
};
