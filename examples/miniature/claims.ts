// The claims of the papers that the miniature can speak to, each with what decides it. A verdict follows from the figures alone: where the
// interval of a difference covers zero, the runs decide nothing. `why` is written by hand, and again when figures change.
import type { Figures, Key } from "./figures.ts";
import { meanShared, TOP } from "./overlap.ts";

export interface Claim {
  readonly source: string;
  readonly claim: string;
  readonly test: (f: Figures) => { readonly verdict: "holds" | "does not hold here" | "not testable here"; readonly found: string };
  readonly why: string;
}

const verdict = (holds: boolean): "holds" | "does not hold here" => (holds ? "holds" : "does not hold here");
const percent = (x: number): string => `${x.toFixed(0)} %`;
const signed = (x: number, digits = 1): string => `${x < 0 ? "−" : "+"}${Math.abs(x).toFixed(digits)}`;

/** Of a difference that a claim says to be above or below zero: an interval that covers zero decides nothing. */
const decided = (d: { readonly low: number; readonly high: number }, side: "above" | "below") =>
  d.low <= 0 && d.high >= 0 ? "not testable here" : verdict(side === "above" ? d.low > 0 : d.high < 0);

/** a − b with its interval. */
function difference(
  f: Figures,
  a: string,
  b: string,
  key: Key,
  digits: number,
): { readonly text: string; readonly low: number; readonly high: number; readonly mean: number } {
  const { mean, low, high, n } = f.difference(a, b, key);
  return {
    text: `${signed(mean, digits)} (95 %: ${signed(low!, digits)} to ${signed(high!, digits)}, ${n} pairs)`,
    low: low!,
    high: high!,
    mean,
  };
}

const better = (f: Figures): "esft-token" | "esft-gate" =>
  f.gain("esft-token", "exact").mean >= f.gain("esft-gate", "exact").mean ? "esft-token" : "esft-gate";

export const CLAIMS: readonly Claim[] = [
  {
    source: "ESFT, Table 1",
    claim: "ESFT matches full fine-tuning on the task: at least 95 % of its gain in loss",
    test(f) {
      const [mine, full] = [f.gain("esft-token", "loss").mean, f.gain("full", "loss").mean];
      return {
        verdict: verdict(mine <= 0.95 * full),
        found: `loss ${signed(mine, 3)} of ${signed(full, 3)}: ${percent((100 * mine) / full)}; ESFT − full ${difference(f, "esft-token", "full", "loss", 3).text}`,
      };
    },
    why: "most of the loss is the new format, which a sixth of the experts learn; what is left is the rest of each answer",
  },
  {
    source: "ESFT, Table 1",
    claim: "the same of answers that are right to the letter",
    test(f) {
      const of = better(f);
      const [mine, full] = [f.gain(of, "exact").mean, f.gain("full", "exact").mean];
      return {
        verdict: verdict(mine >= 0.95 * full),
        found: `${signed(mine)} points (${of}) of ${signed(full)}: ${percent((100 * mine) / full)}; ${of} − full ${difference(f, of, "full", "exact", 1).text}`,
      };
    },
    why: "full fine-tuning learns attention, embedding and head too, and on this model they matter: without any routed expert they reach its score on requests (shared-rest in Table 3), and forget far more. Of a token's slots at experts a third meets one that trains (coverage)",
  },
  {
    source: "ESFT, Table 1",
    claim: "ESFT is ahead of LoRA of the paper's rank on the task",
    test(f) {
      const d = difference(f, better(f), "lora", "exact", 1);
      return { verdict: decided(d, "above"), found: `exact answers ${d.text}` };
    },
    why: "LoRA is ahead by a little: rank 8 beside a width of 192 is no bottleneck, as it is beside the paper's 2048, and it adapts attention and all experts",
  },
  {
    source: "ESFT, Table 2",
    claim: "ESFT forgets less than full fine-tuning: at most half of the rise",
    test(f) {
      const [mine, full] = [f.of("esft-token", "others").mean, f.of("full", "others").mean];
      return {
        verdict: verdict(mine <= 0.5 * full),
        found: `rise ${signed(mine, 3)} against ${signed(full, 3)}: ${percent((100 * mine) / full)}; difference ${difference(f, "esft-token", "full", "others", 3).text}`,
      };
    },
    why: "new formats cost all methods far more than harder forms of what is known; it is there that ESFT keeps more",
  },
  {
    source: "ESFT, Table 2",
    claim: "ESFT forgets less than LoRA at about equal trained parameters",
    test(f) {
      const d = difference(f, "esft-token", "lora", "others", 3);
      return {
        verdict: decided(d, "below"),
        found: `rise ${d.text}, with ${f.of("esft-token", "share").mean.toFixed(1)} % against ${f.of("lora", "share").mean.toFixed(1)} % trained`,
      };
    },
    why: "less on five of seven tasks, on three of them a third of LoRA's rise; one seed is too few to decide",
  },
  {
    source: "ESFT, Table 3",
    claim: "training all else beside the relevant experts forgets more",
    test(f) {
      const d = difference(f, "relevant-shared-rest", "esft-token", "others", 3);
      return {
        verdict: decided(d, "above"),
        found: `rise ${d.text}; loss of the task ${difference(f, "relevant-shared-rest", "esft-token", "loss", 3).text}`,
      };
    },
    why: "more on both tasks, and on requests without measure; two runs are too few for an interval",
  },
  {
    source: "ESFT, Table 3",
    claim: "shared experts alone learn the task less well than relevant experts",
    test(f) {
      const d = difference(f, "shared", "esft-token", "loss", 3);
      return { verdict: decided(d, "above"), found: `loss ${d.text}` };
    },
    why: "the shared expert of this model is as wide as two routed ones and every token passes it: it is a strong place to train here",
  },
  {
    source: "ESFT, Table 4",
    claim: "random experts are clearly behind",
    test(f) {
      const d = difference(f, "random-token", "esft-token", "loss", 3);
      return {
        verdict: decided(d, "above"),
        found: `loss ${d.text}; trained experts see ${f.of("random-token", "coverage").mean.toFixed(0)} % of routed tokens in place of ${f.of("esft-token", "coverage").mean.toFixed(0)} %`,
      };
    },
    why: "behind on every task, most on edits; the spread between tasks is as large as the mean",
  },
  {
    source: "ESFT, Figure 6",
    claim: "the task score saturates long before all experts train",
    test(f) {
      const [more, all] = [difference(f, "p-0.1", "p-0.6", "loss", 3), difference(f, "p-0.6", "p-1", "loss", 3)];
      return { verdict: verdict(all.mean < 0.25 * more.mean), found: `loss, p 0.1 − p 0.6: ${more.text}; p 0.6 − p 1: ${all.text}` };
    },
    why: "two tasks and one seed; the curve is in the table",
  },
  {
    source: "ESFT, Figure 7",
    claim: "coarser experts make ESFT train more for the same score",
    test(f) {
      const [share, loss] = [difference(f, "tied-4", "esft-token", "share", 1), difference(f, "tied-4", "esft-token", "loss", 3)];
      return {
        verdict: decided(share, "above"),
        found: `trained share, groups of 4 − single experts: ${share.text} points; loss ${loss.text}`,
      };
    },
    why: "groups hold experts that the task does not use, on both tasks; only the selection is tied here, the router chooses single experts",
  },
  {
    source: "ESFT, Figure 3",
    claim: "tasks use different experts",
    test(f) {
      const shared = meanShared(f.shared);
      return {
        verdict: verdict(shared < TOP / 4),
        found: `of the ${TOP} experts of a layer that a task uses most, another task has ${shared.toFixed(1)} among its ${TOP}`,
      };
    },
    why: "by chance it would be 0.5",
  },
  {
    source: "ESFT, section 5.2",
    claim: "an adapter takes a tenth of the bytes (we allow 15 %), a step two thirds of the time",
    test(f) {
      const [bytes, time] = (["adapter", "step"] as const).map((key) => f.of("esft-token", key).mean / f.of("full", key).mean) as [
        number,
        number,
      ];
      return {
        verdict: verdict(bytes <= 0.15 && time <= 0.7),
        found: `${percent(100 * bytes)} of the bytes, ${percent(100 * time)} of a step's time`,
      };
    },
    why: "no gradient of frozen weights is computed, and no optimizer state is held for them; times were taken beside other work",
  },
  {
    source: "PERFT, Table 2",
    claim: "PERFT-R is ahead of LoRA on attention at equal active parameters",
    test(f) {
      const d = difference(f, "perft-r", "lora-attention", "loss", 3);
      return {
        verdict: decided(d, "below"),
        found: `loss ${d.text}, rise on others ${difference(f, "perft-r", "lora-attention", "others", 3).text}`,
      };
    },
    why: "two tasks, one seed and one rate; PERFT-E, whose adapters follow the base's router, is ahead of both",
  },
  {
    source: "EPnG",
    claim: "moving ranks to busy experts is ahead of even ranks at the same budget",
    test(f) {
      const d = difference(f, "epng", "lora-experts", "loss", 3);
      return {
        verdict: decided(d, "below"),
        found: `loss ${d.text}, rise on others ${difference(f, "epng", "lora-experts", "others", 3).text}`,
      };
    },
    why: "100 updates leave four moves of ranks; no difference to speak of",
  },
  {
    source: "ESFT, Tables 1 and 2",
    claim: "the same on MATH, GSM8K, HumanEval, MMLU and the other benchmarks of the papers",
    test: () => ({ verdict: "not testable here", found: "" }),
    why: "they need models a thousand times larger; what is here are tasks of the same two kinds, and the loss on every domain of pretraining",
  },
];
