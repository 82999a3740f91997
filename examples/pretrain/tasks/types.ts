// What tasks have beside domains: their kind, as the ESFT paper (arXiv 2407.01906, section 4.1) tells them apart.
import type { Domain } from "../domains/types.ts";

export interface Task extends Domain {
  /** "enhancement": harder than a domain that pretraining saw. "adaptation": a format that pretraining never saw, over words that it saw. */
  readonly kind: "enhancement" | "adaptation";
}
