// Requests as OpenAI's API has them. What would change the answer and is not there is refused by name; what cannot change it is ignored;
// top_k, min_p, repetition_penalty and chat_template_kwargs are more than OpenAI has.

import { z } from "zod";
import { invalid } from "./errors.ts";
import { isPlain, parseOptions } from "../options.ts";

/** Choices of a request; their seeds are neighbours. */
export const MAX_N = 128;
const MAX_TOP = 20;
/** Each that a chat template leaves out costs a rendering of all. */
const MAX_MESSAGES = 4096;

/** Not there: only values under which the answer is the same pass. */
const only = (values: readonly unknown[], expected: string) =>
  z
    .unknown()
    .refine((v) => v === undefined || values.some((x) => JSON.stringify(x) === JSON.stringify(v)), { error: `expected ${expected}` })
    .optional();

const ignored = z.unknown().optional();

const common = {
  user: ignored,
  metadata: ignored,
  store: ignored,
  service_tier: ignored,
  safety_identifier: ignored,
  prompt_cache_key: ignored,
  prompt_cache_retention: ignored,
  prediction: ignored,
  model: z.string(),
  stream: z.boolean().default(false),
  stream_options: z.strictObject({ include_usage: z.boolean().default(false), include_obfuscation: z.boolean().optional() }).optional(),
  temperature: z.number().min(0).max(2).default(1),
  top_p: z.number().min(0).max(1).default(1),
  top_k: z
    .int()
    .min(-1)
    .max(2 ** 31 - 1)
    .default(0),
  min_p: z.number().min(0).max(1).default(0),
  repetition_penalty: z.number().min(1e-3).max(1e3).default(1),
  seed: z
    .int()
    .min(0)
    .max(Number.MAX_SAFE_INTEGER - MAX_N)
    .optional(),
  n: z.int().min(1).max(MAX_N).default(1),
  stop: z.string().or(z.array(z.string())).default([]),
  presence_penalty: only([0], "0: there is no presence penalty; repetition_penalty is there"),
  frequency_penalty: only([0], "0: there is no frequency penalty; repetition_penalty is there"),
  logit_bias: only([{}], "nothing: logits are not biased"),
};

const part = z.strictObject({ type: z.literal("text", { error: 'expected "text": only text is read' }), text: z.string() });
const message = z.looseObject({ role: z.string().min(1), content: z.string().or(z.array(part)).nullable().optional() });
const tool = z.looseObject({ type: z.literal("function"), function: z.looseObject({ name: z.string().min(1) }) });

export const chatSchema = z.strictObject({
  ...common,
  messages: z.array(message).min(1).max(MAX_MESSAGES),
  max_tokens: z.int().min(1).optional(),
  max_completion_tokens: z.int().min(1).optional(),
  logprobs: z.boolean().default(false),
  top_logprobs: z.int().min(0).max(MAX_TOP).optional(),
  tools: z.array(tool).optional(),
  tool_choice: only(["auto", "none"], '"auto" or "none": no tool can be forced, answers are not constrained'),
  parallel_tool_calls: only([true], "true or nothing: how many tools are called is up to the model"),
  response_format: only(
    [{ type: "text" }],
    '{"type": "text"}: answers are not constrained to JSON; ask for it in the messages, and check what comes',
  ),
  chat_template_kwargs: z.record(z.string(), z.unknown()).optional(),
  functions: only([[]], "nothing; use tools"),
  function_call: only(["auto", "none"], "nothing; use tools"),
  modalities: only([["text"]], '["text"]'),
  audio: only([], "nothing: there is no audio"),
  reasoning_effort: only([], "nothing; where the chat template has a variable for it, give it in chat_template_kwargs"),
  verbosity: only(["medium"], "nothing: no model here knows it"),
  web_search_options: only([], "nothing: there is no web search"),
});
export type ChatRequest = z.output<typeof chatSchema>;

const ids = z.array(z.int().min(0));

export const completionSchema = z.strictObject({
  ...common,
  prompt: z
    .string()
    .or(ids.min(1))
    .or(z.array(z.string()).min(1))
    .or(z.array(ids.min(1)).min(1)),
  max_tokens: z.int().min(0).default(16),
  logprobs: z.int().min(0).max(MAX_TOP).optional(),
  echo: only([false], "false: prompts are not repeated"),
  best_of: z.int().min(1).optional(),
  suffix: only([""], "nothing: text is continued, not filled in"),
});
export type CompletionRequest = z.output<typeof completionSchema>;

/** What both kinds of request have. */
export type CommonRequest = Pick<CompletionRequest, keyof typeof common>;

/** @throws ConfigError naming the parameter · ApiError */
export function parseRequest<T extends CommonRequest>(schema: z.ZodType<T>, body: unknown): T {
  if (!isPlain(body)) throw invalid("", "expected a JSON object as the body of the request");
  // null is how typed clients leave a parameter out
  const request = parseOptions(schema, Object.fromEntries(Object.entries(body).filter(([, value]) => value !== null)), "request");
  if (request.stream_options && !request.stream) throw invalid("stream_options", "stream_options: expected stream to be true with it");
  return request;
}
