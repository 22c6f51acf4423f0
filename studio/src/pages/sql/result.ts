// A result as other parts of the page see it: charts and exports read it.

import type { Cell } from "../../api.ts";
import type { ColumnHead } from "./stream.ts";

export type ResultView = {
  /** The name of the tab, which names files. */
  name: string;
  heads: ColumnHead[];
  /** The rows that have arrived. */
  rows: Cell[][];
  /** The statement that was run. */
  statement: string;
  /** True if the statement has more rows than arrived. */
  hasMore: boolean;
};
