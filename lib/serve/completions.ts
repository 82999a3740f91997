// POST /v1/completions: texts or token ids, continued.

import type { JsonBody } from "./body.ts";
import { invalid } from "./errors.ts";
import type { Ask, Job } from "./job.ts";
import { choices, room } from "./sampling.ts";
import { completionSchema, parseRequest } from "./schema.ts";
import type { CompletionRequest } from "./schema.ts";
import type { Head, Service } from "./service.ts";
import { shownLogprob } from "./token_text.ts";
import type { TokenText } from "./token_text.ts";
import { usageOf } from "./usage.ts";
import type { GeneratedToken, GenerationResult } from "../generate/generation.ts";
import type { Tokenizer } from "../text/tokenizer.ts";

export async function completions(service: Service, { plain }: JsonBody, signal: AbortSignal): Promise<Response> {
  const { models } = service;
  const request = parseRequest(completionSchema, plain);
  service.requireModel(request.model);
  if (request.best_of !== undefined && request.best_of !== request.n)
    throw invalid("best_of", `best_of: expected ${request.n} as n, found ${request.best_of}: every answer is returned`);
  const prompts = await idsOf(request.prompt, await models.tokenizer(), models.vocab);
  const asks = prompts.flatMap((ids): Ask[] => {
    const maxTokens = room(ids.length, request.max_tokens, models.maxPositions, "max_tokens");
    return choices(request, maxTokens, request.logprobs ?? 0).map((choice) => () => models.generate(request.model, ids, choice));
  });
  const promptTokens = prompts.reduce((sum, ids) => sum + ids.length, 0);
  const likely = request.logprobs === undefined ? null : logprobsBy(await service.tokenText(), request.logprobs);
  const head = service.head("cmpl", request.model);
  const job = service.begin(request.model, asks, signal);
  if (request.stream) return service.stream(job, chunks(job, head, request, promptTokens, likely));
  const results = await job.results();
  return Response.json({
    ...head,
    object: "text_completion",
    choices: results.map(({ text, tokens, finishReason }, index) => ({
      text,
      index,
      logprobs: likely?.(index, tokens) ?? null,
      finish_reason: finishReason,
    })),
    usage: usageOf(promptTokens, results),
  });
}

/** @throws ApiError an empty prompt, or ids that the model does not have · DataError text that cannot be encoded */
async function idsOf(prompt: CompletionRequest["prompt"], tokenizer: Tokenizer, vocab: number): Promise<(readonly number[])[]> {
  const list =
    typeof prompt === "string" ? [prompt] : typeof prompt[0] === "number" ? [prompt as number[]] : (prompt as (string | number[])[]);
  return Promise.all(
    list.map(async (one, i) => {
      const param = list.length === 1 ? "prompt" : `prompt[${i}]`;
      const ids = typeof one === "string" ? await tokenizer.encodeRaw(one) : one;
      if (ids.length === 0) throw invalid(param, `${param}: expected at least one token, found none`);
      const wrong = ids.find((id) => id >= vocab);
      if (wrong !== undefined) throw invalid(param, `${param}: expected token ids below ${vocab}, found ${wrong}`);
      return ids;
    }),
  );
}

type Likely = (index: number, tokens: readonly GeneratedToken[]) => object;

function logprobsBy(texts: TokenText, top: number): Likely {
  const offsets = new Map<number, number>(); // of the next token of each answer, in UTF-16 units of its text
  return (index, tokens) => {
    const words = tokens.map(({ id }) => texts.of(id));
    let at = offsets.get(index) ?? 0;
    const textOffset = words.map((word) => (at += word.length) - word.length);
    offsets.set(index, at);
    return {
      tokens: words,
      token_logprobs: tokens.map(({ logprob }) => shownLogprob(logprob)),
      top_logprobs:
        top === 0 ? null : tokens.map((t) => Object.fromEntries(t.top.slice(0, top).map((x) => [texts.of(x.id), shownLogprob(x.logprob)]))),
      text_offset: textOffset,
    };
  };
}

async function* chunks(job: Job, head: Head, { stream_options }: CompletionRequest, promptTokens: number, likely: Likely | null) {
  const withUsage = stream_options?.include_usage === true;
  const chunk = (index: number, text: string, logprobs: object | null, finish: string | null) => ({
    ...head,
    object: "text_completion",
    choices: [{ text, index, logprobs, finish_reason: finish }],
    ...(withUsage ? { usage: null } : {}),
  });
  const results: GenerationResult[] = [];
  for await (const event of job.events())
    if ("result" in event) {
      results.push(event.result);
      yield chunk(event.index, "", null, event.result.finishReason);
    } else if (event.piece.text !== "" || likely) {
      yield chunk(event.index, event.piece.text, likely?.(event.index, event.piece.tokens) ?? null, null);
    }
  if (withUsage) yield { ...head, object: "text_completion", choices: [], usage: usageOf(promptTokens, results) };
}
