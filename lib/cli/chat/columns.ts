// Two texts side by side while both are still being written: a row is given out once neither side can change it.

import { displayWidth } from "../../format.ts";

const GAP = " │ ";

/** One text broken into lines of a width, at spaces where there are any. */
class Column {
  readonly lines: string[] = [];
  ended = false;
  private line = "";
  private width = 0;
  private readonly most: number;

  constructor(most: number) {
    this.most = most;
  }

  push(text: string): void {
    for (const char of text) {
      if (char === "\n") {
        this.lines.push(this.line);
        [this.line, this.width] = ["", 0];
        continue;
      }
      const wide = displayWidth(char);
      if (this.width + wide > this.most) this.wrap(char);
      else if (char !== " " || this.width > 0 || this.lines.length === 0) [this.line, this.width] = [this.line + char, this.width + wide];
    }
  }

  private wrap(char: string): void {
    const at = this.line.lastIndexOf(" ");
    const [line, rest] = char === " " || at <= 0 ? [this.line, ""] : [this.line.slice(0, at), this.line.slice(at + 1)];
    this.lines.push(line);
    this.line = char === " " ? "" : rest + char;
    this.width = displayWidth(this.line);
  }

  end(): void {
    if (this.line !== "") this.lines.push(this.line);
    this.line = "";
    this.ended = true;
  }
}

export class SideBySide {
  private readonly columns: readonly [Column, Column];
  private readonly width: number;
  private row = 0;

  /** @param columns of the terminal */
  constructor(columns: number) {
    this.width = Math.floor((columns - 1 - GAP.length) / 2);
    this.columns = [new Column(this.width), new Column(this.width)];
  }

  /** Rows that are whole now. */
  push(side: 0 | 1, text: string): string[] {
    this.columns[side].push(text);
    return this.whole();
  }
  end(side: 0 | 1): string[] {
    this.columns[side].end();
    return this.whole();
  }

  private whole(): string[] {
    const [left, right] = this.columns;
    const rows: string[] = [];
    const is = (column: Column): boolean => this.row < column.lines.length || column.ended;
    for (; is(left) && is(right) && this.row < Math.max(left.lines.length, right.lines.length); this.row++)
      rows.push(this.beside(left.lines[this.row] ?? "", right.lines[this.row] ?? ""));
    return rows;
  }

  beside(left: string, right: string): string {
    return `${left}${" ".repeat(Math.max(0, this.width - displayWidth(left)))}${GAP}${right}`.trimEnd();
  }
}
