// The files that a plan names, and those of its model beside the weights: hashed once, when a comparison begins, and the same until it ends.

import { createHash } from "node:crypto";
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { ConfigError } from "../errors.ts";
import { RegularFile, streamFile } from "../files/regular.ts";
import type { FileStamp } from "../files/regular.ts";
import type { DataOptions } from "../options.ts";
import { throwIfAborted } from "../task.ts";
import { tokenizerFilesOf } from "../text/tokenizer_files.ts";
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

/** What decides beside the weights on what a model makes of text, as paths below its directory. */
async function filesOfModel(dir: string): Promise<string[]> {
  const config = await stat(join(dir, "config.json")).then(() => ["config.json"], () => []); // prettier-ignore
  return [...config, ...(await tokenizerFilesOf(dir))];
}

export class PlanFiles {
  private readonly known: ReadonlyMap<string, { readonly sha256: string; readonly stamp: FileStamp }>;
  /** sha256 of config.json, and of the tokenizer's files and chat templates. */
  readonly ofModel: Readonly<Record<string, string>>;

  private constructor(known: PlanFiles["known"], model: string, beside: readonly string[]) {
    this.known = known;
    this.ofModel = Object.fromEntries(beside.map((name) => [name, this.sha256(join(model, name))]));
  }

  /** @throws IoError one is missing, or no regular file · AbortError */
  static async open(plan: Plan, signal?: AbortSignal): Promise<PlanFiles> {
    const known = new Map<string, { readonly sha256: string; readonly stamp: FileStamp }>();
    const beside = await filesOfModel(plan.model);
    for (const file of [...filesOf(plan), ...beside.map((name) => join(plan.model, name))]) {
      throwIfAborted(signal, "hashing the plan's files");
      await using opened = await RegularFile.open(file); // a pipe could be read once
      const hash = createHash("sha256");
      for await (const piece of streamFile(file, signal)) hash.update(piece);
      known.set(file, { sha256: hash.digest("hex"), stamp: opened.stamp });
    }
    return new PlanFiles(known, plan.model, beside);
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
