// What may be said of the base's routers beside a method (router_mode.ts says what each mode does). Loads nothing: the command line reads it.

export const ROUTER_MODES = ["frozen", "train", "lora", "ste"] as const;
export type RouterMode = (typeof ROUTER_MODES)[number];

export interface RouterOptions {
  /** Absent: as the method has it by itself. */
  readonly router?: RouterMode | undefined;
  /** r of "lora". Default 8, or the number of experts where that is less. */
  readonly routerRank?: number | undefined;
  /** α of "lora"; the term is scaled by α/r. Default 2·r. */
  readonly routerAlpha?: number | undefined;
}
