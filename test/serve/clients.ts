// Many clients at once on one server: streams of all names, some of which go away in the middle. What is finished must be what the same
// request gives alone.

import { Random } from "../ops/host.ts";
import { BASE, post, until } from "./support.ts";
import type { Served } from "./support.ts";

export interface Load {
  readonly names: readonly string[];
  readonly streams: number;
  readonly ms: number;
  readonly seed: string;
  /** Most tokens of an answer. */
  readonly tokens: number;
  /** Share of requests whose client goes away. */
  readonly leaving: number;
  /** Called when a request is over. */
  readonly onDone?: (done: number) => void;
}

export interface Outcome {
  readonly finished: number;
  readonly left: number;
  readonly refused: number;
  /** Answers that differ from the one alone, and errors. */
  readonly wrong: readonly string[];
}

interface Request {
  readonly model: string;
  readonly content: string;
  readonly seed: number;
  readonly max_tokens: number;
}

const QUESTIONS = [
  "Travel desk: Please get me four seats on the plane from Paris to Athens on 23 November.",
  "What is 3 + 4?",
  "How many days are there from 3 May to 9 June?",
  "Tell me about Nessa.",
] as const;

const body = ({ model, content, seed, max_tokens }: Request) => ({
  model,
  messages: [{ role: "user", content }],
  seed,
  max_tokens,
  temperature: 1,
  stream: true,
});

/** The text of a streamed answer, or how it was refused. */
async function streamed(url: string, request: Request, signal?: AbortSignal): Promise<string> {
  const response = await post(url, body(request), {}, signal);
  const told = await response.text();
  if (response.status === 429) return "429";
  if (response.status !== 200 || !told.endsWith("data: [DONE]\n\n")) throw new Error(`${response.status}: ${told.slice(-300)}`);
  return told
    .split("\n\n")
    .filter((line) => line.startsWith("data: {"))
    .map((line) => (JSON.parse(line.slice(6)) as { choices: { delta: { content?: string } }[] }).choices[0]?.delta.content ?? "")
    .join("");
}

/** Asks every request by itself, one after the other. @returns answers by request */
async function answersAlone(url: string, requests: readonly Request[]): Promise<Map<Request, string>> {
  const answers = new Map<Request, string>();
  for (const request of requests) answers.set(request, await streamed(url, request));
  return answers;
}

export async function hammer(served: Served, { names, streams, ms, seed, tokens, leaving, onDone }: Load): Promise<Outcome> {
  const url = `${served.url}/v1/chat/completions`;
  const random = new Random(seed);
  const requests = [BASE, ...names].flatMap((model) =>
    QUESTIONS.map((content, i) => ({ model, content, seed: i, max_tokens: 4 + random.below(tokens - 3) })),
  );
  const alone = await answersAlone(url, requests);
  const wrong: string[] = [];
  let [finished, left, refused] = [0, 0, 0];
  const end = performance.now() + ms;
  const client = async (): Promise<void> => {
    while (performance.now() < end) {
      const request = requests[random.below(requests.length)]!;
      const leave = random.below(1000) < 1000 * leaving ? AbortSignal.timeout(1 + random.below(400)) : undefined;
      try {
        const text = await streamed(url, request, leave);
        if (text === "429") {
          refused++;
          await new Promise((resolve) => setTimeout(resolve, 50));
        } else {
          finished++;
          if (text !== alone.get(request))
            wrong.push(`${JSON.stringify(request)}: ${JSON.stringify(text)} is not ${JSON.stringify(alone.get(request))}`);
        }
      } catch (error) {
        if (leave?.aborted) left++;
        else wrong.push(String(error));
      }
      onDone?.(finished + left + refused);
    }
  };
  await Promise.all(Array.from({ length: streams }, client));
  await until(() => {
    const { active, waiting } = served.models.load;
    return active + waiting + served.server.size === 0;
  });
  return { finished, left, refused, wrong };
}
