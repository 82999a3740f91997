// grouped_column_sum on CUDA against the reference (test/ops/cases/grouped_column_sum.ts).

import { groupedColumnSumCases } from "../ops/cases/grouped_column_sum.ts";
import { describeCudaCases } from "./support.ts";

describeCudaCases("grouped_column_sum", groupedColumnSumCases);
