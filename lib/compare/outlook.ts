// How long a comparison still takes: work of each kind that is left, by what work of that kind took since the comparison was begun or
// went on.

/** "train METHOD" in updates, "evaluate FILE", "answers FILE" and "profile TASK" in passes. */
export type Kind = `${"train" | "evaluate" | "answers" | "profile"} ${string}`;

export class Outlook {
  private readonly left = new Map<Kind, number>();
  private readonly measured = new Map<Kind, { units: number; seconds: number }>();

  add(kind: Kind, units: number): void {
    this.left.set(kind, (this.left.get(kind) ?? 0) + units);
  }
  /** Done before, or not needed. */
  skip(kind: Kind, units: number): void {
    this.left.set(kind, Math.max(0, (this.left.get(kind) ?? 0) - units));
  }
  spent(kind: Kind, units: number, seconds: number): void {
    this.skip(kind, units);
    const { units: before, seconds: took } = this.measured.get(kind) ?? { units: 0, seconds: 0 };
    this.measured.set(kind, { units: before + units, seconds: took + seconds });
  }

  /** Null while no update was made and some are left. */
  get seconds(): number | null {
    let sum = 0;
    for (const [kind, units] of this.left) {
      if (units === 0) continue;
      const rate = this.rate([kind]) ?? this.rate([...this.measured.keys()].filter((k) => k.split(" ")[0] === kind.split(" ")[0]));
      if (rate === null && kind.startsWith("train ")) return null;
      sum += units * (rate ?? 0);
    }
    return sum;
  }

  private rate(kinds: readonly Kind[]): number | null {
    const of = kinds.flatMap((kind) => this.measured.get(kind) ?? []);
    const units = of.reduce((n, m) => n + m.units, 0);
    return units === 0 ? null : of.reduce((n, m) => n + m.seconds, 0) / units;
  }
}
