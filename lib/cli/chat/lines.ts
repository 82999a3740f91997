// Lines as they are typed → what is said: a line that ends in a backslash goes on in the next one, and """ … """ holds any number.

const QUOTES = '"""';

export class Lines {
  private held: string[] = [];
  private quoted = false;

  /** More lines belong to what was begun. */
  get open(): boolean {
    return this.held.length > 0 || this.quoted;
  }

  /** @returns what is said, once it is whole; null: more is to come */
  push(line: string): string | null {
    if (this.quoted) {
      const end = line.trimEnd();
      if (!end.endsWith(QUOTES)) return this.hold(line);
      this.held.push(end.slice(0, -QUOTES.length));
      const lines = this.take();
      if (lines.at(-1) === "") lines.pop();
      if (lines[0] === "") lines.shift();
      return lines.join("\n");
    }
    if (this.held.length === 0 && line.trimStart().startsWith(QUOTES)) {
      const rest = line.trimStart().slice(QUOTES.length);
      const end = rest.trimEnd();
      if (end.endsWith(QUOTES)) return end.slice(0, -QUOTES.length);
      this.quoted = true;
      return this.hold(rest);
    }
    if (line.endsWith("\\")) return this.hold(line.slice(0, -1));
    return [...this.take(), line].join("\n");
  }

  /** Forgets what was begun. */
  drop(): void {
    this.take();
  }

  private hold(line: string): null {
    this.held.push(line);
    return null;
  }
  private take(): string[] {
    this.quoted = false;
    return this.held.splice(0);
  }
}
