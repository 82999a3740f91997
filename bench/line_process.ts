// A child process that answers one line per line.

import { spawn } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { createInterface } from "node:readline";

export class LineProcess {
  private readonly child: ChildProcess;
  private readonly waiting: { resolve: (line: string) => void; reject: (error: Error) => void }[] = [];
  private readonly lines: string[] = [];
  private ended: Error | null = null;

  constructor(command: string, args: readonly string[], env: NodeJS.ProcessEnv = process.env) {
    this.child = spawn(command, args, { stdio: ["pipe", "pipe", "ignore"], env });
    this.child.on("error", (error) => this.end(error));
    this.child.on("exit", (code) => this.end(new Error(`${command} ended with code ${code}`)));
    createInterface({ input: this.child.stdout! }).on("line", (line) => {
      const next = this.waiting.shift();
      if (next) next.resolve(line);
      else this.lines.push(line);
    });
  }

  private end(error: Error): void {
    this.ended ??= error;
    for (const w of this.waiting.splice(0)) w.reject(this.ended);
  }

  read(): Promise<string> {
    const line = this.lines.shift();
    if (line !== undefined) return Promise.resolve(line);
    if (this.ended) return Promise.reject(this.ended);
    return new Promise((resolve, reject) => this.waiting.push({ resolve, reject }));
  }

  async ask(line: string): Promise<string> {
    if (this.ended) throw this.ended;
    this.child.stdin!.write(`${line}\n`);
    return this.read();
  }

  stop(): void {
    this.child.stdin?.end();
    this.child.kill();
  }
}
