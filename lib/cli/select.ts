// esft select: from a profile to the experts that train.

import { Option } from "@commander-js/extra-typings";
import type { Command } from "@commander-js/extra-typings";
import { ConfigError } from "../errors.ts";
import { Profile } from "../experts/profile.ts";
import { requireOutputFile } from "../files/apart.ts";
import { openCheckpoint } from "../files/checkpoint.ts";
import { checkpointSpec } from "../model/families/index.ts";
import { expertParameters } from "../model/spec.ts";
import type { ModelSpec } from "../model/spec.ts";
import { esftTrainable } from "../methods/esft.ts";
import { ruleWords } from "../experts/rule_words.ts";
import type { SelectOptions } from "../experts/select.ts";
import { number, wholeNumber } from "./common.ts";
import { count, percent, table } from "../format.ts";
import { modelDir } from "./hub.ts";
import type { Terminal } from "./terminal.ts";

export function registerSelect(program: Command, terminal: Terminal): void {
  program
    .command("select")
    .description("choose experts from a profile: by cumulative score p, a number per layer, or a parameter budget")
    .argument("<profile>", "output of esft profile")
    .option("-o, --output <file>", "expert set to write (default: print only)")
    .addOption(
      new Option("--score <kind>", "share of routed tokens, mean gate weight, or share of ‖W ⊙ dW‖ (esft profile --gradient)")
        .choices(["token", "gate", "gradient"] as const)
        .default("token" as const),
    )
    .option("--p <x>", "per layer, the best experts until their scores sum to p, in (0, 1]", number)
    .option("--top-k-per-layer <n>", "instead of p: so many experts per layer", wholeNumber)
    .option("--max-params <n>", "instead of p: the best experts within so many parameters (needs --model or --expert-params)", number)
    .option(
      "--fixed <list>",
      "instead of p: these experts, layer=id+id between commas (1=3+0,2=5) or none; without a profile: --experts of esft train",
    )
    .option("--group-size <n>", "tie so many neighbouring experts: selected together or not at all, by their summed scores", wholeNumber)
    .addOption(new Option("--compat <name>", "select exactly as the released configurations did").choices(["esft-2024"] as const))
    .addOption(
      new Option("--gate-normalize <kind>", "gate scores as they are, or scaled to sum to 1 per layer")
        .choices(["raw", "perLayer"] as const)
        .default("raw" as const),
    )
    .addOption(
      new Option("--average <kind>", "mean over all tokens, or over the means of the sequences")
        .choices(["tokens", "sequences"] as const)
        .default("tokens" as const),
    )
    .option("--random <seed>", "the paper's control: as many experts per layer as the rule takes, drawn with this seed", wholeNumber)
    .option("--shared-experts", "also train the shared experts")
    .option("--non-expert-modules", "also train everything that is not a routed or shared expert")
    .addOption(
      new Option("--format <kind>", "ours, or the official expert_cfg.json")
        .choices(["native", "esft"] as const)
        .default("native" as const),
    )
    .option(
      "--model <model>",
      "checkpoint (a directory, or org/name on the hub): checks that the set fits, and knows the size of an expert",
    )
    .option("--expert-params <n>", "parameters of one expert", wholeNumber)
    .option("--json", "print the set with the scores of every selected expert as JSON")
    .addHelpText(
      "after",
      "\nExamples:\n  esft select law.profile.json --score token --p 0.2 -o law.experts.json\n  esft select law.profile.json --score token --p 0.2 --compat esft-2024 --format esft -o expert_cfg.json\n  esft select law.profile.json --score gate --max-params 500e6 --model ./OLMoE-1B-7B -o law.experts.json",
    )
    .action(async (file, flags) => {
      if (flags.output !== undefined) await requireOutputFile(flags.output, [file]);
      const profile = await Profile.load(file);
      const { sharedExperts, nonExpertModules, score, gateNormalize, average, p, compat, topKPerLayer, maxParams } = flags;
      const { random, fixed, groupSize } = flags;
      const spec = flags.model === undefined ? null : await specOf(flags.model, terminal);
      const expertParams = flags.expertParams ?? (spec ? expertParameters(spec) : undefined);
      if (maxParams !== undefined && expertParams === undefined)
        throw new ConfigError("select: --max-params needs the size of an expert: --model DIR or --expert-params N", {
          where: { key: "expertParams" },
        });
      // All rules that were asked for go in; the library refuses any number but one.
      const rules = { p, compat, topKPerLayer, maxTrainableParams: maxParams, fixed, expertParams };
      const options = { score, gateNormalize, average, random, groupSize, sharedExperts, nonExpertModules, ...rules };
      const set = profile.select(options as SelectOptions);
      if (spec) esftTrainable(spec, set); // refuses a set that does not fit
      if (flags.output !== undefined) await set.save(flags.output, { format: flags.format });

      const rows = profile.layers.map((layer) => {
        const { ranked } = set.layers.get(layer) ?? { ranked: [] };
        const covered = (kind: "token" | "gate") => {
          const scores = profile.scores(layer, { score: kind, gateNormalize: kind === "gate" ? "perLayer" : "raw" });
          return ranked.reduce((sum, e) => sum + scores[e]!, 0);
        };
        return { layer, experts: ranked.length, tokenShare: covered("token"), gateShare: covered("gate"), ids: ranked };
      });
      const costOf = (layer: number): number => (typeof expertParams === "number" ? expertParams : (expertParams?.get(layer) ?? 0));
      const total = {
        experts: set.count,
        of: profile.expertCount,
        tokenShare: rows.reduce((s, r) => s + r.tokenShare, 0) / rows.length,
        gateShare: rows.reduce((s, r) => s + r.gateShare, 0) / rows.length,
        ...(expertParams === undefined ? {} : { parameters: rows.reduce((n, r) => n + costOf(r.layer) * r.experts, 0) }),
      };
      for (const w of set.warnings) terminal.note(`warning: ${w}`);
      if (flags.json) return terminal.json({ ...set.toJSON(), summary: { layers: rows.map(({ ids: _, ...r }) => r), total } });
      const cells = rows.map((r) => [
        r.layer,
        `${r.experts} of ${profile.layout.get(r.layer)!}`,
        percent(r.tokenShare),
        percent(r.gateShare),
        r.ids.join(" "),
      ]);
      terminal.print(table(["layer", "experts", "tokens covered", "gate covered", "ids, best first"], cells, { left: [4] }));
      terminal.print(`rule: ${ruleWords(set.rule)}`);
      terminal.print(
        `total: ${total.experts} of ${total.of} experts (${percent(total.experts / total.of)}), ${percent(total.tokenShare)} of routed tokens, ${percent(total.gateShare)} of gate weight` +
          (total.parameters === undefined ? "" : `, ${count(total.parameters)} parameters`) +
          (sharedExperts ? ", and the shared experts" : "") +
          (nonExpertModules ? ", and the non-expert modules" : ""),
      );
      if (flags.output !== undefined) terminal.print(`written: ${flags.output}`);
    });
}

async function specOf(model: string, terminal: Terminal): Promise<ModelSpec> {
  return checkpointSpec(await openCheckpoint(await modelDir(model, terminal)));
}
