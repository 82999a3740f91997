// What a child process is told, and what it says: JSON lines on its descriptor 3, so that whatever libraries print disturbs nothing.

import type { StageContext } from "./item.ts";

export interface Task extends StageContext {
  readonly stage: string;
  /** Items that earlier processes of the stage have ended. */
  readonly done: readonly string[];
}

export type Line =
  | { readonly say: "plan"; readonly items: readonly { readonly name: string; readonly optional: boolean }[] }
  | { readonly say: "begin"; readonly item: string; readonly patience: number | null }
  /** A sign of life. */
  | { readonly say: "progress"; readonly item: string; readonly text: string }
  | {
      readonly say: "end";
      readonly item: string;
      readonly status: "ok" | "failed" | "absent";
      readonly text: string;
      readonly data?: unknown;
    };

/** Exit code of a child that asks for a new process for the items that are left. */
export const FRESH = 75;
