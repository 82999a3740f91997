// A guard against forgetting: the loss on named other rows, before the first update and every so many, and how far it has risen since. It
// reads the model between updates and changes nothing of them; a run that it ends is a finished one.

import { z } from "zod";
import type { Rows } from "../data/epoch.ts";
import type { Examples } from "../data/examples.ts";
import { ConfigError, NonFiniteError } from "../errors.ts";
import { CHECK_WEIGHTS } from "../model/non_finite.ts";
import type { Transformer } from "../model/transformer.ts";
import type { AskedOptions } from "../options.ts";
import { evaluateRows } from "./evaluate.ts";
import type { GuardOptions } from "./guard_options.ts";
import { heldOutRows } from "./streams.ts";

/** Of a checkpoint: what was measured, and whether it is still to be done at its step. A loss that was not finite is null. */
export const guardedSchema = z.strictObject({
  due: z.boolean(),
  files: z.array(z.strictObject({ name: z.string(), rows: z.string(), before: z.number(), last: z.number().nullable() })),
});
export type Guarded = z.output<typeof guardedSchema>;

/** The loss on rows that are not to be forgotten, in nats per token, and how far it has risen since before the first update. */
export interface GuardLoss {
  readonly name: string;
  readonly loss: number;
  readonly rise: number;
  readonly over: boolean;
}
export interface GuardEvent {
  readonly type: "guard";
  readonly step: number;
  readonly files: readonly GuardLoss[];
}

export interface GuardInit extends Pick<GuardOptions, "every" | "maxRise" | "stop"> {
  readonly files: readonly { readonly name: string; readonly examples: Examples }[];
}

export class Guard {
  /** The losses of this step are still to be taken. */
  due = true;
  private readonly rule: Omit<GuardInit, "files">;
  private readonly files: readonly { readonly name: string; readonly rows: Rows; readonly fingerprint: string }[];
  /** Before the first update, and of the last look; null: not taken yet. */
  private before: readonly number[] | null = null;
  private last: readonly number[] = [];

  /** @throws ConfigError a file without anything supervised */
  constructor({ files, ...rule }: GuardInit, options: AskedOptions, padId: number) {
    this.rule = rule;
    this.files = files.map(({ name, examples }, i) => {
      const rows = heldOutRows(examples, options, padId, 0);
      if (rows === null)
        throw new ConfigError(`train.guard.files.${i}: expected rows with anything supervised, found none in "${name}"`, {
          where: { key: `guard.files.${i}` },
        });
      return { name, rows, fingerprint: examples.fingerprint() };
    });
  }

  /** Is a look due after so many updates, of which `last` is the last? */
  isDue(step: number, last: boolean): boolean {
    return last || step % this.rule.every === 0;
  }

  /** @throws AbortError nothing was measured · NonFiniteError before the first update · KernelError */
  async look(model: Transformer, step: number, capacity: number, signal: AbortSignal): Promise<GuardEvent> {
    const losses: number[] = [];
    for (const { rows } of this.files) losses.push((await evaluateRows(model, rows, capacity, { signal })).loss);
    const odd = losses.findIndex((loss) => !Number.isFinite(loss));
    if (this.before === null && odd >= 0)
      throw new NonFiniteError(`the loss on ${this.files[odd]!.name} before the first step is ${losses[odd]}: ${CHECK_WEIGHTS}`, {
        where: { step },
      });
    this.before ??= losses;
    this.last = losses;
    this.due = false;
    return { type: "guard", step, files: this.losses };
  }

  private get losses(): GuardLoss[] {
    return this.last.map((loss, i) => {
      const rise = loss - this.before![i]!;
      return { name: this.files[i]!.name, loss, rise, over: !(rise <= this.rule.maxRise) };
    });
  }

  /** What has risen too far by the last look, in words; null: nothing. */
  get warning(): string | null {
    const over = this.losses.filter((f) => f.over);
    if (over.length === 0) return null;
    const list = over.map(({ name, loss, rise }) => `on ${name} by ${rise.toFixed(4)} to ${loss.toFixed(4)}`);
    return `the loss rose ${list.join(", ")} since before the first update, by more than ${this.rule.maxRise} (guard.maxRise)`;
  }

  /** Why the run ends here; null: it goes on. */
  get over(): string | null {
    return this.rule.stop ? this.warning : null;
  }

  /** Null before the first look. */
  get state(): Guarded | null {
    const { before, last, due } = this;
    if (before === null) return null;
    const files = this.files.map(({ name, fingerprint }, i) => {
      const loss = last[i]!;
      return { name, rows: fingerprint, before: before[i]!, last: Number.isFinite(loss) ? loss : null };
    });
    return { due, files };
  }

  /** Goes on from a checkpoint of step `step`. @throws ConfigError what is to be guarded was not measured before the first update */
  restore(state: Guarded | null | undefined, step: number): void {
    if (!state) {
      if (step > 0) this.refuse(null, "a run that had it before its first update, found none in its checkpoint");
      return;
    }
    const kept = this.files.map(({ name, fingerprint }, i) => {
      const known = state.files.find((f) => f.name === name);
      if (!known) return this.refuse(i, `one of ${state.files.map((f) => f.name).join(", ")}, found "${name}"`);
      if (known.rows !== fingerprint) return this.refuse(i, `the rows that "${name}" had before the first update, found others`);
      return known;
    });
    this.before = kept.map((f) => f.before);
    this.last = kept.map((f) => f.last ?? NaN);
    this.due = state.due;
  }

  private refuse(file: number | null, expected: string): never {
    const key = file === null ? "guard" : `guard.files.${file}`;
    throw new ConfigError(`train.${key}: expected ${expected}; resume without it, or choose another outDir`, { where: { key } });
  }
}
