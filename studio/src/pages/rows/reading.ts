// Reads a page of rows, and exports the rows of a filter.

import { type Cell, get, type Table, withQuery } from "../../api.ts";
import { type ExportOptions, exportQuery } from "../../export-form.ts";
import { labels } from "../../labels.ts";
import { encodedName } from "../../names.ts";
import type { RowsAddress } from "./address.ts";
import type { Row } from "./cells.ts";

export type Answer = {
  rows: Cell[][];
  columns: string[];
  keys: string[];
  /** The keys after and before which the next and the previous page start; null if there is none. */
  next: string | null;
  previous: string | null;
  estimated: number | null;
  ms: number;
  /** The names of the rows that the page refers to, by table and key. */
  names: Record<string, Record<string, string>>;
  search: Found | null;
};

/** How a search was done. */
export type Found = {
  /** The columns that were searched. */
  columns: string[];
  index: string | null;
  /** The number of matches, if it is known. */
  rows: number | null;
  /** True if the page shows the first matches of many. */
  more: boolean;
  /** True if the search reads the whole of a table that is not small. */
  reads_all: boolean;
};

/** Read the page of rows that the address selects, at most `limit` rows. */
export const readRows = (
  { name }: Table,
  { parameters }: RowsAddress,
  limit: string,
  signal: AbortSignal,
): Promise<Answer> =>
  get<Answer>(
    `/api/rows/${encodeURIComponent(name)}`,
    {
      q: parameters.get("q"),
      sort: parameters.get("sort"),
      filter: parameters.get("filter"),
      limit,
      after: parameters.get("after"),
      before: parameters.get("before"),
      last: parameters.get("last"),
      names: labels.shown ? null : "0",
    },
    { signal },
  );

export const rowsOf = ({ rows, columns, keys }: Answer): Row[] =>
  rows.map((cells, index) => ({
    // Rows of a table without a key are distinguished by their place on the page.
    key: keys[index] ?? `row ${index}`,
    cells: Object.fromEntries(columns.map((name, column) => [name, cells[column] ?? null])),
  }));

/** Return the address of an export: all rows of the filter, in the sort order, with these columns. */
export const exportPath = (
  table: Table,
  { parameters }: RowsAddress,
  columns: string[],
  options: ExportOptions,
): string =>
  withQuery(`/api/export/${encodeURIComponent(table.name)}.${options.format}`, {
    q: parameters.get("q"),
    sort: parameters.get("sort"),
    filter: parameters.get("filter"),
    columns: columns.map(encodedName).join(","),
    ...exportQuery(options),
  });
