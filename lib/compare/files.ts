// The files that a plan names: hashed once, when a comparison begins, and the same until it ends.

import { createHash } from "node:crypto";
import { stat } from "node:fs/promises";
import { ConfigError } from "../errors.ts";
import { RegularFile, streamFile } from "../files/regular.ts";
import type { FileStamp } from "../files/regular.ts";
import type { DataOptions } from "../options.ts";
import { throwIfAborted } from "../task.ts";
import { TASK_PROFILE } from "./plan.ts";
import type { Plan } from "./plan.ts";

const ofTemplate = ({ template }: DataOptions): string[] => (template === "tokenizer" || template === "esft" ? [] : [template]);

/** Every file of a plan, each once. */
function filesOf({ tasks, others, methods, evaluation }: Plan): string[] {
  const found = [
    ...tasks.flatMap((t) => [t.train, t.validation, t.test, ...(evaluation.answers ? [t.answers ?? t.test] : []), ...ofTemplate(t)]),
    ...others.flatMap((o) => [o.file, ...ofTemplate(o)]),
    ...methods.flatMap(({ method }) => {
      const { experts, profile } = method as { readonly experts?: unknown; readonly profile?: unknown };
      return [experts, profile === TASK_PROFILE ? undefined : profile].filter((f) => typeof f === "string");
    }),
  ];
  return [...new Set(found)];
}

export class PlanFiles {
  private readonly known: ReadonlyMap<string, { readonly sha256: string; readonly stamp: FileStamp }>;

  private constructor(known: PlanFiles["known"]) {
    this.known = known;
  }

  /** @throws IoError one is missing, or no regular file · AbortError */
  static async open(plan: Plan, signal?: AbortSignal): Promise<PlanFiles> {
    const known = new Map<string, { readonly sha256: string; readonly stamp: FileStamp }>();
    for (const file of filesOf(plan)) {
      throwIfAborted(signal, "hashing the plan's files");
      await using opened = await RegularFile.open(file); // a pipe could be read once
      const hash = createHash("sha256");
      for await (const piece of streamFile(file, signal)) hash.update(piece);
      known.set(file, { sha256: hash.digest("hex"), stamp: opened.stamp });
    }
    return new PlanFiles(known);
  }

  sha256(file: string): string {
    return this.known.get(file)!.sha256;
  }

  /** How rows are read, as far as it decides what they become: a template's file may move. */
  dataFacts(file: string, { template, ...data }: DataOptions): Readonly<Record<string, unknown>> {
    const named = template === "tokenizer" || template === "esft" ? template : this.sha256(template);
    return { sha256: this.sha256(file), template: named, ...data };
  }

  /** @throws ConfigError a file is no longer what was hashed */
  async requireUnchanged(): Promise<void> {
    for (const [file, { stamp }] of this.known) {
      const now = await stat(file, { bigint: true }).catch(() => null);
      if (now === null || (["dev", "ino", "size", "mtimeNs"] as const).some((key) => now[key] !== stamp[key]))
        throw new ConfigError(`${file} changed while the comparison was running; run the same command again: what rests on it is redone`, {
          where: { file },
        });
    }
  }
}
