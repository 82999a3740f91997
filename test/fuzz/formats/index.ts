// All fuzzers.

import type { Format } from "../case.ts";
import { adapter } from "./adapter.ts";
import { checkpoint } from "./checkpoint.ts";
import { config } from "./config.ts";
import { esft } from "./esft.ts";
import { index } from "./index_file.ts";
import { job } from "./job.ts";
import { experts, profile } from "./profile.ts";
import { quantised } from "./quantised.ts";
import { request } from "./request.ts";
import { rows } from "./rows.ts";
import { safetensors } from "./safetensors.ts";
import { template } from "./template.ts";
import { tokenizer } from "./tokenizer.ts";
import { traces } from "./traces.ts";

export const formats: readonly Format[] = [
  config,
  safetensors,
  quantised,
  index,
  tokenizer,
  template,
  rows,
  job,
  traces,
  profile,
  experts,
  adapter,
  esft,
  checkpoint,
  request,
];
