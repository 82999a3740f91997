// The tasks to fine-tune on: no part of the pretraining mix, yet every token of theirs is (token_check.ts). At least three of each kind.
import { booking } from "./booking.ts";
import { cipher } from "./cipher.ts";
import { code } from "./code.ts";
import { edits } from "./edits.ts";
import { requests } from "./requests.ts";
import { summary } from "./summary.ts";
import { sums } from "./sums.ts";
import type { Task } from "./types.ts";

export type { Task } from "./types.ts";

export const TASKS: readonly Task[] = [sums, code, edits, booking, requests, cipher, summary];
