// What a check of a fixture found, and how two arrays of numbers are told apart.

/** A fixture of a kind, or a model, that the project does not serve. */
export class NotServed extends Error {}

export type Outcome = "pass" | "FAIL" | "not served";

/** One comparison of numbers: the worst of its name. */
export interface Check {
  readonly name: string;
  /** Worst error, or a count of mismatches. */
  readonly error: number;
  readonly limit: number;
  readonly detail: string;
  readonly ok: boolean;
}

/** One row of the runner. */
export interface Report {
  readonly outcome: Outcome;
  readonly checks: readonly Check[];
  /** Comparisons that were made. */
  readonly compared: number;
  /** What differs, a text each. */
  readonly failures: readonly string[];
}

/** Collects comparisons of numbers with their bounds. */
export class Checks {
  private readonly worst = new Map<string, Check>();
  compared = 0;

  add(name: string, error: number, limit: number, detail = ""): void {
    this.compared++;
    const ok = error <= limit; // NaN fails
    const before = this.worst.get(name);
    const check = { name, error, limit, detail, ok };
    if (!before || (before.ok && !ok) || (before.ok === ok && !(error <= before.error))) this.worst.set(name, check);
  }

  get list(): readonly Check[] {
    return [...this.worst.values()];
  }
}

/** Runs a check of numbers to its report, whatever it throws. */
export async function report(run: (checks: Checks) => Promise<void>): Promise<Report> {
  const checks = new Checks();
  const end = (outcome: Outcome, failures: readonly string[]): Report => ({
    outcome,
    checks: checks.list,
    compared: checks.compared,
    failures,
  });
  try {
    await run(checks);
  } catch (error) {
    if (error instanceof NotServed) return end("not served", [error.message]);
    return end("FAIL", [error instanceof Error ? error.message : String(error)]);
  }
  const failures = checks.list.filter((c) => !c.ok).map((c) => `${c.name}: ${c.error} exceeds ${c.limit}${c.detail && ` (${c.detail})`}`);
  if (checks.compared === 0) failures.push("nothing was compared");
  return end(failures.length === 0 ? "pass" : "FAIL", failures);
}

/** ‖a − b‖, or ‖a‖. */
export function l2(a: ArrayLike<number>, b?: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i]! - (b ? b[i]! : 0)) ** 2;
  return Math.sqrt(sum);
}

/** ‖a − b‖ / ‖b‖; when b is all zero, ‖a‖. Infinite for arrays of different lengths. */
export function relativeL2(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) return Number.POSITIVE_INFINITY;
  return l2(a, b) / (l2(b) || 1);
}

/** max |a − b|; infinite for arrays of different lengths, NaN where either holds one. */
export function maxDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) return Number.POSITIVE_INFINITY;
  let most = 0;
  for (let i = 0; i < b.length; i++) {
    const d = Math.abs(a[i]! - b[i]!);
    if (!(d <= most)) most = d;
  }
  return most;
}

/** Relative error of one number. */
export const relative = (a: number, b: number): number => Math.abs(a / b - 1);

/** ‖now − want‖ over ‖want − start‖. */
export const relativeToMovement = (now: Float32Array, want: Float32Array, start: Float32Array): number => l2(now, want) / l2(want, start);
