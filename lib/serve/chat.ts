// POST /v1/chat/completions: the next message of a conversation, whole or in pieces.

import type { JsonBody } from "./body.ts";
import { conversationOf } from "./conversation.ts";
import { invalid } from "./errors.ts";
import type { Ask, Job } from "./job.ts";
import { choices, room } from "./sampling.ts";
import { chatSchema, parseRequest } from "./schema.ts";
import type { ChatRequest } from "./schema.ts";
import type { Head, Service } from "./service.ts";
import { shownLogprob } from "./token_text.ts";
import type { TokenText } from "./token_text.ts";
import { usageOf } from "./usage.ts";
import type { GeneratedToken, GenerationResult } from "../generate/generation.ts";
import { promptOf } from "../generate/prompt.ts";

export async function chat(service: Service, { plain, exact }: JsonBody, signal: AbortSignal): Promise<Response> {
  const { models } = service;
  const request = parseRequest(chatSchema, plain);
  service.requireModel(request.model);
  const [param, asked] = limitOf(request);
  if (request.top_logprobs !== undefined && !request.logprobs)
    throw invalid("top_logprobs", "top_logprobs: expected logprobs to be true with it");
  const tokenizer = await models.tokenizer();
  const { messages, options } = conversationOf(request, exact, models.template);
  const promptTokens = (await promptOf(messages, tokenizer, options)).length;
  const maxTokens = room(promptTokens, asked, models.maxPositions, param);
  const asks = choices(request, maxTokens, request.top_logprobs ?? 0).map(
    (choice): Ask =>
      () =>
        models.chat(request.model, messages, { ...options, ...choice }),
  );
  const likely = request.logprobs ? logprobsBy(await service.tokenText(), request.top_logprobs ?? 0) : null;
  const head = service.head("chatcmpl", request.model);
  const job = service.begin(request.model, asks, signal);
  if (request.stream) return service.stream(job, chunks(job, head, request, promptTokens, likely));
  const results = await job.results();
  return Response.json({
    ...head,
    object: "chat.completion",
    choices: results.map(({ text, tokens, finishReason }, index) => ({
      index,
      message: { role: "assistant", content: text, refusal: null },
      logprobs: likely?.(tokens) ?? null,
      finish_reason: finishReason,
    })),
    usage: usageOf(promptTokens, results),
  });
}

function limitOf({ max_tokens: old, max_completion_tokens: now }: ChatRequest): [param: string, asked: number | undefined] {
  if (old !== undefined && now !== undefined && old !== now)
    throw invalid("max_tokens", `max_tokens: expected it alone, or the value of max_completion_tokens (${now}), found ${old}`);
  return now === undefined ? ["max_tokens", old] : ["max_completion_tokens", now];
}

type Likely = (tokens: readonly GeneratedToken[]) => object;

/** @param top of so many tokens at each place, the likeliest first */
function logprobsBy(texts: TokenText, top: number): Likely {
  const one = ({ id, logprob }: { readonly id: number; readonly logprob: number }) => ({
    token: texts.of(id),
    logprob: shownLogprob(logprob),
    bytes: texts.bytes(id),
  });
  return (tokens) => ({ content: tokens.map((t) => ({ ...one(t), top_logprobs: t.top.slice(0, top).map(one) })), refusal: null });
}

async function* chunks(job: Job, head: Head, { n, stream_options }: ChatRequest, promptTokens: number, likely: Likely | null) {
  const withUsage = stream_options?.include_usage === true;
  const chunk = (index: number, delta: object, logprobs: object | null, finish: string | null) => ({
    ...head,
    object: "chat.completion.chunk",
    choices: [{ index, delta, logprobs, finish_reason: finish }],
    ...(withUsage ? { usage: null } : {}),
  });
  for (let i = 0; i < n; i++) yield chunk(i, { role: "assistant", content: "", refusal: null }, null, null);
  const results: GenerationResult[] = [];
  for await (const event of job.events())
    if ("result" in event) {
      results.push(event.result);
      yield chunk(event.index, {}, null, event.result.finishReason);
    } else if (event.piece.text !== "" || likely) {
      yield chunk(event.index, { content: event.piece.text }, likely?.(event.piece.tokens) ?? null, null);
    }
  if (withUsage) yield { ...head, object: "chat.completion.chunk", choices: [], usage: usageOf(promptTokens, results) };
}
