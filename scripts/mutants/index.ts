// All bugs that are planted in native code.
import { addon } from "./addon.ts";
import { checks } from "./checks.ts";
import { decoding } from "./decoding.ts";
import { delta } from "./delta.ts";
import { products } from "./products.ts";
import { quant } from "./quant.ts";
import { rows } from "./rows.ts";
import { sampling } from "./sampling.ts";
import type { Mutant } from "./mutant.ts";

export const mutants: readonly Mutant[] = [...checks, ...addon, ...rows, ...products, ...delta, ...decoding, ...quant, ...sampling];
