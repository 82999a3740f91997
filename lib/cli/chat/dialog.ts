// What is typed in a chat: questions of one line or many, and commands. Apart from any terminal, so that tests can type.

import { EsftError } from "../../errors.ts";
import { runCommand } from "./commands.ts";
import { Lines } from "./lines.ts";
import { BASE } from "./session.ts";
import type { ChatSession } from "./session.ts";

export class Dialog {
  readonly session: ChatSession;
  private readonly lines = new Lines();

  constructor(session: ChatSession) {
    this.session = session;
  }

  /** What stands before the next line. */
  get prompt(): string {
    if (this.lines.open) return "... ";
    const { talker, adapter } = this.session;
    return talker.adapters.length === 0 ? "> " : `${adapter ?? BASE}> `;
  }
  /** The next line goes on with what was begun. */
  get open(): boolean {
    return this.lines.open;
  }
  /** Forgets what was begun. */
  drop(): void {
    this.lines.drop();
  }

  /** A line as it is typed: a question, a part of one, or a command. @returns false: it is time to leave */
  async line(text: string): Promise<boolean> {
    const said = this.lines.push(text);
    if (said === null || said.trim() === "") return true;
    const { session } = this;
    try {
      if (said.startsWith("/") && !said.startsWith("//")) return await runCommand(session, said.slice(1));
      await session.ask(said.startsWith("//") ? said.slice(1) : said);
    } catch (error) {
      if (!(error instanceof EsftError) || error.code === "ERR_ABORTED") throw error;
      session.screen.note(`error [${error.code}]: ${error.message}`);
    }
    return true;
  }
}
