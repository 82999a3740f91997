// esft select: from a profile to the experts that train.

import { join } from "node:path";
import { Option } from "commander";
import type { Command } from "commander";
import { ConfigError } from "../errors.ts";
import { Profile } from "../experts/profile.ts";
import { openCheckpoint } from "../files/checkpoint.ts";
import { modelSpec } from "../model/families/index.ts";
import { expertParameters } from "../model/spec.ts";
import { esftTrainable } from "../methods/esft.ts";
import type { SelectOptions } from "../experts/select.ts";
import { number, wholeNumber } from "./common.ts";
import { count, percent, table } from "./format.ts";
import type { Terminal } from "./terminal.ts";

interface Flags {
  readonly output?: string;
  readonly score: "token" | "gate";
  readonly p?: number;
  readonly topKPerLayer?: number;
  readonly maxParams?: number;
  readonly compat?: "esft-2024";
  readonly gateNormalize: "raw" | "perLayer";
  readonly average: "tokens" | "sequences";
  readonly format: "native" | "esft";
  readonly sharedExperts?: boolean;
  readonly nonExpertModules?: boolean;
  readonly model?: string;
  readonly expertParams?: number;
  readonly json?: boolean;
}

export function registerSelect(program: Command, terminal: Terminal): void {
  program
    .command("select")
    .description("choose experts from a profile: by cumulative score p, a number per layer, or a parameter budget")
    .argument("<profile>", "output of esft profile")
    .option("-o, --output <file>", "expert set to write (default: print only)")
    .addOption(new Option("--score <kind>", "share of routed tokens, or mean gate weight").choices(["token", "gate"]).default("token"))
    .option("--p <x>", "per layer, the best experts until their scores sum to p, in (0, 1]", number)
    .option("--top-k-per-layer <n>", "instead of p: so many experts per layer", wholeNumber)
    .option("--max-params <n>", "instead of p: the best experts within so many parameters (needs --model or --expert-params)", number)
    .addOption(new Option("--compat <name>", "select exactly as the released configurations did").choices(["esft-2024"]))
    .addOption(
      new Option("--gate-normalize <kind>", "gate scores as they are, or scaled to sum to 1 per layer")
        .choices(["raw", "perLayer"])
        .default("raw"),
    )
    .addOption(
      new Option("--average <kind>", "mean over all tokens, or over the means of the sequences")
        .choices(["tokens", "sequences"])
        .default("tokens"),
    )
    .option("--shared-experts", "also train the shared experts")
    .option("--non-expert-modules", "also train everything that is not a routed or shared expert")
    .addOption(new Option("--format <kind>", "ours, or the official expert_cfg.json").choices(["native", "esft"]).default("native"))
    .option("--model <dir>", "checkpoint: checks that the set fits, and knows the size of an expert")
    .option("--expert-params <n>", "parameters of one expert", wholeNumber)
    .option("--json", "print the set with the scores of every selected expert as JSON")
    .addHelpText(
      "after",
      "\nExamples:\n  esft select law.profile.json --score token --p 0.2 -o law.experts.json\n  esft select law.profile.json --score token --p 0.2 --compat esft-2024 --format esft -o expert_cfg.json\n  esft select law.profile.json --score gate --max-params 500e6 --model ./OLMoE-1B-7B -o law.experts.json",
    )
    .action(async (file: string, flags: Flags) => {
      const profile = await Profile.load(file);
      const { spec, expertParams } = await modelFacts(flags);
      if (flags.maxParams !== undefined && expertParams === undefined) {
        throw new ConfigError("select: --max-params needs the size of an expert: --model DIR or --expert-params N", {
          where: { key: "expertParams" },
        });
      }
      const { sharedExperts, nonExpertModules, score, gateNormalize, average, p, compat, topKPerLayer, maxParams } = flags;
      const common = { score, gateNormalize, average, sharedExperts, nonExpertModules };
      // All rules that were asked for go in; the library refuses any number but one.
      const rules = {
        ...(p === undefined ? {} : { p, compat }),
        ...(topKPerLayer === undefined ? {} : { topKPerLayer }),
        ...(maxParams === undefined ? {} : { maxTrainableParams: maxParams, expertParams }),
      };
      const set = profile.select({ ...common, ...rules } as unknown as SelectOptions);
      if (spec) {
        esftTrainable(spec, set);
      }
      if (flags.output !== undefined) await set.save(flags.output, { format: flags.format });

      const rows = profile.layers.map((layer) => {
        const { ranked } = set.layers.get(layer) ?? { ranked: [] };
        const covered = (kind: "token" | "gate") => {
          const scores = profile.scores(layer, { score: kind, gateNormalize: kind === "gate" ? "perLayer" : "raw" });
          return ranked.reduce((sum, e) => sum + scores[e]!, 0);
        };
        return {
          layer,
          experts: ranked.length,
          of: profile.layout.get(layer)!,
          tokenShare: covered("token"),
          gateShare: covered("gate"),
          ids: ranked,
        };
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
      if (flags.json) return terminal.json({ ...set.toJSON(), summary: { layers: rows.map(({ ids: _i, of: _o, ...r }) => r), total } });
      terminal.print(
        table(
          ["layer", "experts", "tokens covered", "gate covered", "ids, best first"],
          rows.map((r) => [r.layer, `${r.experts} of ${r.of}`, percent(r.tokenShare), percent(r.gateShare), r.ids.join(" ")]),
          { left: [4] },
        ),
      );
      terminal.print(
        `total: ${total.experts} of ${total.of} experts (${percent(total.experts / total.of)}), ${percent(total.tokenShare)} of routed tokens, ${percent(total.gateShare)} of gate weight` +
          (total.parameters === undefined ? "" : `, ${count(total.parameters)} parameters`) +
          [sharedExperts && "shared experts", nonExpertModules && "non-expert modules"]
            .flatMap((x) => (x ? [`, and the ${x}`] : []))
            .join(""),
      );
      if (flags.output !== undefined) terminal.print(`written: ${flags.output}`);
    });
}

async function modelFacts(flags: Flags) {
  if (flags.model === undefined) return { spec: null, expertParams: flags.expertParams };
  const { config, dir } = await openCheckpoint(flags.model);
  const spec = modelSpec(config, join(dir, "config.json"));
  return { spec, expertParams: flags.expertParams ?? expertParameters(spec) };
}
