// record.json beside a run: what the run rests on, what came out, and every evaluation with the key of what it rests on. By it a
// comparison that was killed goes on, and cells that would come out the same are reused.

import { join } from "node:path";
import { z } from "zod";
import { makeFolder, writeFileAtomic } from "../files/atomic.ts";
import { disk } from "../files/disk.ts";
import { flatFacts } from "../files/facts.ts";
import { sha256 } from "../files/hash.ts";
import { checkSchema } from "../files/json.ts";
import { readSealedJson, sealedJson } from "../files/sealed.ts";
import { compareSchema, timesSchema } from "./result.ts";

const cell = compareSchema.shape.cells.element.shape;
const times = timesSchema.shape.cells.valueType;

const VERSION = 2;

const trainedSchema = z.strictObject({
  diverged: cell.diverged,
  steps: cell.steps,
  tokens: cell.tokens,
  trainedParameters: cell.trainedParameters,
  trainedShare: cell.trainedShare,
  stateBytes: cell.stateBytes,
  activationBytes: cell.activationBytes,
  adapterBytes: cell.adapterBytes,
  /** sha256 of adapter.json, which has those of the tensors. */
  adapter: z.string().nullable(),
  experts: cell.experts,
  /** Counted as it trained; what a profile says is looked up when results are told. */
  counted: cell.coverage,
  times: times.omit({ evaluationSeconds: true }).nullable(),
});
export type Trained = z.output<typeof trainedSchema>;

const recordSchema = z.strictObject({
  format: z.literal("esft-compare-record"),
  version: z.literal(VERSION),
  /** What a run's result rests on; of the base model and of profiles likewise. */
  facts: z.record(z.string(), z.unknown()),
  trained: trainedSchema.nullable(),
  /** Of a profile: how long it took. */
  seconds: z.number().nullable(),
  evaluations: z.record(
    z.string(),
    z.strictObject({
      key: z.string(),
      /** Null: begun, or not finite. */
      values: z.record(z.string(), z.number()).nullable(),
      /** Why there are no values: numbers that are not finite. */
      nonFinite: z.string().nullable(),
      seconds: z.number().min(0),
    }),
  ),
});
const Older = z.object({ format: z.literal("esft-compare-record"), version: z.int().lt(VERSION) });
type Content = z.output<typeof recordSchema>;
/** What an evaluation came to: values by name, or why they are not finite. */
export type Outcome = Pick<Content["evaluations"][string], "values" | "nonFinite">;
export type Facts = Readonly<Record<string, unknown>>;

export class RunRecord {
  readonly dir: string;
  private content: Content;

  private constructor(dir: string, content: Content) {
    this.dir = dir;
    this.content = content;
  }

  /**
   * What `dir` holds of a run that rests on these facts. A folder of another run is emptied: `changed` is told which facts differ.
   * @throws LayoutError the record is damaged · IoError
   */
  static async open(dir: string, facts: Facts, changed?: (keys: readonly string[]) => void): Promise<RunRecord> {
    const file = join(dir, "record.json");
    const asJson = JSON.parse(JSON.stringify(facts)) as Facts;
    const found = await readSealedJson(file).catch((error: unknown) => {
      if ((error as { where?: Facts }).where?.["errno"] === "ENOENT") return null;
      throw error;
    });
    if (Older.safeParse(found?.value).success) changed?.(["the form of records"]);
    else if (found !== null) {
      const content = checkSchema(recordSchema, found.value, file);
      const [before, now] = [flatFacts(content.facts), flatFacts(asJson)];
      const keys = [...new Set([...before.keys(), ...now.keys()])].filter((key) => before.get(key) !== now.get(key));
      if (keys.length === 0) return new RunRecord(dir, content);
      changed?.(keys);
    }
    return RunRecord.anew(dir, facts); // what lies there is not this run's
  }

  /** A folder that is emptied. The record goes first, without which what lies there is nobody's, and is written before anything else. */
  static async anew(dir: string, facts: Facts): Promise<RunRecord> {
    await disk.rm(join(dir, "record.json"), { force: true });
    await disk.rm(dir, { recursive: true, force: true });
    await makeFolder(dir);
    const asJson = JSON.parse(JSON.stringify(facts)) as Facts;
    const empty = {
      format: "esft-compare-record",
      version: VERSION,
      facts: asJson,
      trained: null,
      seconds: null,
      evaluations: {},
    } as const;
    const record = new RunRecord(dir, empty);
    await record.save();
    return record;
  }

  get trained(): Trained | null {
    return this.content.trained;
  }
  get seconds(): number | null {
    return this.content.seconds;
  }
  get evaluationSeconds(): number {
    return Object.values(this.content.evaluations).reduce((sum, { seconds }) => sum + seconds, 0);
  }

  async finish(trained: Trained): Promise<void> {
    this.content = { ...this.content, trained };
    await this.save();
  }
  async finishIn(seconds: number): Promise<void> {
    this.content = { ...this.content, seconds };
    await this.save();
  }

  /** An evaluation that was finished; null: none by this name that rests on these facts. */
  evaluated(name: string, facts: Facts): Outcome | null {
    const entry = this.content.evaluations[name];
    return entry?.key === keyOf(facts) && (entry.values !== null || entry.nonFinite !== null) ? entry : null;
  }
  /** Was an evaluation by this name begun that rests on these facts? */
  began(name: string, facts: Facts): boolean {
    return this.content.evaluations[name]?.key === keyOf(facts);
  }
  async begin(name: string, facts: Facts): Promise<void> {
    await this.evaluate(name, facts, { values: null, nonFinite: null }, 0);
  }
  async evaluate(name: string, facts: Facts, { values, nonFinite }: Outcome, seconds: number): Promise<void> {
    const evaluations = { ...this.content.evaluations, [name]: { key: keyOf(facts), values, nonFinite, seconds } };
    this.content = { ...this.content, evaluations };
    await this.save();
  }

  private async save(): Promise<void> {
    await writeFileAtomic(join(this.dir, "record.json"), sealedJson(this.content));
  }
}

const keyOf = (facts: Facts): string => sha256(JSON.stringify(facts));
