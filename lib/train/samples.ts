// Answers to held-out questions while a model trains: what the numbers do not say. A question is a held-out example up to its last
// supervised stretch; that stretch is the reference.

import type { Examples } from "../data/examples.ts";
import { IGNORE } from "../data/masks.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import type { TrainSession } from "./session.ts";

export interface Sample {
  /** "file:line" of the held-out example. */
  readonly place: string;
  readonly prompt: string;
  readonly reference: string;
  /** Greedy, ended by the model, or by the number of tokens that was asked for. */
  readonly answer: string;
}

interface Question {
  readonly place: string;
  readonly prompt: readonly number[];
  readonly reference: readonly number[];
}

export class Sampler {
  private readonly questions: readonly Question[];
  private readonly session: TrainSession;
  private readonly tokenizer: Tokenizer;
  private readonly maxTokens: number;

  /** The first `rows` of the held-out examples that hold a question, as far as the model has positions for it and an answer. */
  constructor(session: TrainSession, tokenizer: Tokenizer, heldOut: Examples | null, rows: number, maxTokens: number) {
    this.session = session;
    this.tokenizer = tokenizer;
    this.maxTokens = maxTokens;
    this.questions = heldOut === null ? [] : questionsOf(heldOut, rows, session.spec.maxPositions);
  }

  get length(): number {
    return this.questions.length;
  }

  /**
   * @param capacity tokens of a pass that there is memory for
   * @throws AbortError · NonFiniteError · MemoryError
   */
  async sample(capacity: number, signal: AbortSignal | undefined): Promise<readonly Sample[]> {
    const { questions, tokenizer, maxTokens } = this;
    const prompts = questions.map(({ prompt }) => prompt);
    const answers = await this.session.continuations(prompts, { maxTokens, capacity, signal });
    const text = (ids: readonly number[]): string => tokenizer.decode(ids, { skipSpecialTokens: true });
    return questions.map(({ place, prompt, reference }, i) => ({
      place,
      prompt: tokenizer.decode(prompt),
      reference: text(reference),
      answer: text(answers[i]!),
    }));
  }
}

function questionsOf(heldOut: Examples, rows: number, positions: number): Question[] {
  const questions: Question[] = [];
  for (let i = 0; i < heldOut.length && questions.length < rows; i++) {
    const { inputIds, labels } = heldOut.get(i);
    let end = labels.length;
    while (end > 0 && labels[end - 1] === IGNORE) end--;
    let start = end;
    while (start > 0 && labels[start - 1] !== IGNORE) start--;
    if (start === 0 || start >= positions) continue; // nothing is asked: plain text; or there is no room for an answer
    questions.push({ place: heldOut.place(i), prompt: [...inputIds.subarray(0, start)], reference: [...inputIds.subarray(start, end)] });
  }
  return questions;
}
