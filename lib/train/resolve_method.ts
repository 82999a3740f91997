// From the method that a request names to what trains: reads experts or profiles, selects, and says when they were measured on
// another model. The run itself sees the TrainableSpec only.

import { ExpertSet } from "../experts/expert_set.ts";
import { Profile } from "../experts/profile.ts";
import { fullTrainable } from "../methods/full.ts";
import { loraTrainable } from "../methods/lora.ts";
import { esftTrainable } from "../methods/esft.ts";
import type { TrainableSpec } from "../methods/method.ts";
import { expertParameters } from "../model/spec.ts";
import type { EsftOptions, MethodOptions } from "./request.ts";
import type { TrainSession } from "./session.ts";

/** @throws ConfigError the experts do not fit the model, or the selection rule does not fit the profile · IoError */
export async function resolveMethod(
  session: TrainSession,
  method: MethodOptions,
  seed: number,
  warn: (message: string) => void,
): Promise<TrainableSpec> {
  if (method.type === "full") return fullTrainable(session.spec);
  if (method.type === "lora") {
    const { rank, alpha = 2 * rank, targets } = method;
    const list = typeof targets === "string" ? targets.split(",").map((t) => t.trim()) : targets;
    return loraTrainable(session.spec, { rank, alpha, targets: list }, seed);
  }
  const set = await expertsOf(session, method, warn);
  for (const w of set.warnings) warn(w);
  const { sharedExperts = set.sharedExperts, nonExpertModules = set.nonExpertModules } = method;
  return esftTrainable(session.spec, set.with({ sharedExperts, nonExpertModules }));
}

async function expertsOf(
  session: TrainSession,
  { experts, profile, select }: EsftOptions,
  warn: (message: string) => void,
): Promise<ExpertSet> {
  const isOther = async (fingerprint: string | undefined): Promise<boolean> =>
    fingerprint !== undefined && fingerprint !== (await session.identity()).fingerprint;
  if (experts !== undefined) {
    const set = typeof experts === "string" ? await ExpertSet.load(experts) : experts;
    if (await isOther(set.base)) warn("the experts were selected on another checkpoint than the one to train");
    return set;
  }
  const measured = typeof profile === "string" ? await Profile.load(profile) : profile!; // the schema's check: one of the two is there
  if (await isOther(measured.data.model?.fingerprint)) warn("the profile was measured on another checkpoint than the one to train");
  const rule = { ...select, expertParams: expertParameters(session.spec) };
  return measured.select(rule as Parameters<Profile["select"]>[0]);
}
