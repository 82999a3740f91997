// The profile that methods select by: one per task, of its training rows, measured once and shared by all cells.

import { Profile } from "../experts/profile.ts";
import { disk } from "../files/disk.ts";
import { join } from "node:path";
import { stat } from "node:fs/promises";
import { methodsOn } from "./cells.ts";
import { TASK_PROFILE } from "./plan.ts";
import type { Plan, PlanMethod, PlanTask } from "./plan.ts";
import { RunRecord } from "./record.ts";
import type { Session } from "./session.ts";

const SAVE_EVERY = 5000; // ms between partial profiles

type Selecting = { readonly profile?: unknown; readonly select?: { readonly score: string } };

export const selectsOnTask = ({ method }: PlanMethod): boolean => (method as Selecting).profile === TASK_PROFILE;
export const needsProfile = (plan: Plan, { name }: PlanTask): boolean => methodsOn(plan, name).some(selectsOnTask);
const needsGradient = (plan: Plan, { name }: PlanTask): boolean =>
  plan.profile.gradient ?? methodsOn(plan, name).some((m) => selectsOnTask(m) && (m.method as Selecting).select?.score === "gradient");

export interface TaskProfile {
  readonly profile: Profile;
  readonly seconds: number;
}

/** @throws DataError · NonFiniteError · AbortError with what was counted kept */
export async function profileOf(s: Session, task: PlanTask): Promise<TaskProfile> {
  const { tokens, seed, batchTokens } = s.plan.profile;
  const { name, train, validation: _v, test: _t, answers: _a, ...data } = task;
  const gradient = needsGradient(s.plan, task);
  const facts = { ...s.modelFacts, data: s.files.dataFacts(train, data), tokens, seed, batchTokens, gradient };
  const dir = s.at("profiles", name);
  const record = await RunRecord.open(dir, facts, (keys) => s.note(`profile ${name} is measured again: ${keys.join(", ")} changed`));
  const [file, partial] = [join(dir, "profile.json"), join(dir, "profile.json.partial")];
  if (record.seconds !== null) {
    s.outlook.skip(`profile ${name}`, 1);
    return { profile: await Profile.load(file), seconds: record.seconds };
  }
  await s.files.requireUnchanged();
  const begun = await stat(partial).then(() => true, () => false); // prettier-ignore
  const resume = begun ? await Profile.load(partial) : null;
  let savedAt = performance.now();
  const { value: profile, seconds } = await s.timed(`profile ${name}`, () =>
    s.model.profile(train, {
      data,
      tokens,
      seed,
      batchTokens,
      gradient,
      resume,
      signal: s.signal,
      partialEvery: 1,
      onPartial: async (state) => {
        if (!s.signal.aborted && performance.now() - savedAt < SAVE_EVERY) return;
        await state.save(partial);
        savedAt = performance.now();
      },
      onProgress: (p) => s.progress(`profile ${name}`, "tokens", p.done, p.total),
    }),
  );
  await s.files.requireUnchanged();
  await profile.save(file);
  await record.finishIn(seconds);
  await disk.rm(partial, { force: true });
  return { profile, seconds };
}
