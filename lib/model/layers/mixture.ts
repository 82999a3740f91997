// Attachments of several adapters in one model, each on the rows of a pass that are its own (Run.shares): sequences of different adapters
// are decoded together. Of attachments whose terms see a row at a time: beside linear layers, and inside MLPs that every token visits.
// For inference: there is no backward.

import { ConfigError } from "../../errors.ts";
import type { Tensor } from "../../tensor.ts";
import type { Run } from "../run.ts";
import type { AttachmentContext, Attachments, ExpertRows, ExpertsAttachment, Hidden, LinearAttachment } from "./attachment.ts";

/** What the parameters of an adapter are called in a mixture. */
export const mixedKey = (adapter: string, key: string): string => `${adapter}\n${key}`;

/** @param parts attachments by the adapters' names; each of them `rowwise` */
export function mixtureOf(parts: ReadonlyMap<string, Attachments>): Attachments {
  const all = [...parts].map(([adapter, attachments]) => ({ adapter, attachments }));
  const place = <T extends object>(
    of: (attachments: Attachments, context: AttachmentContext) => T | null | undefined,
    context: AttachmentContext,
  ) =>
    all.flatMap(({ adapter, attachments }): Part<T>[] => {
      const inner = of(attachments, prefixed(adapter, context));
      return inner ? [{ adapter, inner }] : [];
    });
  return {
    rowwise: true,
    parameters: all.flatMap(({ adapter, attachments }) =>
      attachments.parameters.map((parameter) => ({ ...parameter, key: mixedKey(adapter, parameter.key) })),
    ),
    linear: (target, context) => {
      const found = place((a, c) => a.linear?.(target, c), context);
      return found.length > 0 ? new MixedLinear(found) : null;
    },
    experts: (site, context) => {
      const found = place((a, c) => a.experts?.(site, c), context).map(({ adapter, inner }) => {
        if (site.routed || !("forward" in inner)) throw noPart(adapter, `the experts of layer ${site.layer}`);
        return { adapter, inner };
      });
      return found.length > 0 ? new MixedMlp(found) : null;
    },
  };
}

/** The context of one adapter: its parameters by their own names, its slots apart from the others'. */
function prefixed(adapter: string, context: AttachmentContext): AttachmentContext {
  return {
    plan: context.plan,
    named: (part) => prefixed(adapter, context.named(part)),
    parameter: (ref) => context.parameter(ref),
    attached: (key) => context.attached(mixedKey(adapter, key)),
    values: (parameters) => context.values(parameters),
    gradients: (parameters) => context.gradients(parameters),
    balanced: (routers) => context.balanced(routers),
  };
}

const noPart = (adapter: string, place: string): ConfigError =>
  new ConfigError(`adapter "${adapter}" cannot be mixed with others at ${place}; this is a defect of esft`);

interface Part<T> {
  readonly adapter: string;
  readonly inner: T;
}

/** Calls `work` with the adapter's rows of each tensor; not at all where it has none in this pass. */
function onShare<T>(
  { adapter, inner }: Part<T>,
  run: Run,
  tensors: readonly Tensor[],
  work: (inner: T, parts: readonly Tensor[]) => void,
): void {
  const share = run.shares?.get(adapter);
  if (!share) return;
  const [from, to] = share;
  if (from === 0 && to === run.batch.tokens) return work(inner, tensors);
  const views = tensors.map((t) => t.rows(from, to));
  try {
    work(inner, views);
  } finally {
    for (const view of views) view.dispose();
  }
}

class MixedLinear implements LinearAttachment {
  readonly trains = false;
  private readonly parts: readonly Part<LinearAttachment>[];

  constructor(parts: readonly Part<LinearAttachment>[]) {
    this.parts = parts;
  }

  forward(run: Run, x: Tensor, y: Tensor): void {
    for (const part of this.parts) onShare(part, run, [x, y], (inner, [xs, ys]) => inner.forward(run, xs!, ys!));
  }
  backward(): void {
    throw noPart(this.parts[0]!.adapter, "a backward");
  }
}

class MixedMlp implements ExpertsAttachment {
  private readonly parts: readonly Part<ExpertsAttachment>[];

  constructor(parts: readonly Part<ExpertsAttachment>[]) {
    this.parts = parts;
  }

  readonly forward: ExpertsAttachment["forward"] = {
    hidden: (run: Run, x: Tensor, rows: ExpertRows, { whole, gate, up }: Hidden): void => {
      for (const part of this.parts)
        onShare(part, run, [x, whole, gate, up], (inner, [xs, wholes, gates, ups]) =>
          inner.forward.hidden(run, xs!, rows, { whole: wholes!, gate: gates!, up: ups! }),
        );
    },
    output: (run, x, rows, a, y, pass): void => {
      for (const part of this.parts)
        onShare(part, run, [x, a, y], (inner, [xs, as, ys]) => inner.forward.output(run, xs!, rows, as!, ys!, pass));
    },
  };

  private readonly none = (): never => {
    throw noPart(this.parts[0]!.adapter, "a backward");
  };
  readonly backward: ExpertsAttachment["backward"] = { output: this.none, hidden: this.none, input: this.none };
}
