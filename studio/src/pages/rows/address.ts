// The address of the page: the filter, the sort order, and the page of rows.

import { type Condition, type Group, narrowed, readFilter, writeFilter } from "../../filters/filter.ts";
import { encodedName } from "../../names.ts";

export type Sort = { column: string; descending: boolean };

/** The parameters that select a page of rows. Without them it is the first. */
const PLACES = ["after", "before", "last"];

export class RowsAddress {
  private readonly table: string;
  parameters: URLSearchParams;

  constructor(table: string, parameters: URLSearchParams) {
    this.table = table;
    this.parameters = parameters;
  }

  get filter(): Group {
    return readFilter(this.parameters.get("filter"));
  }

  /** The sort columns in order of priority. The address holds them as `belt,-id`. */
  get sort(): Sort[] {
    return (this.parameters.get("sort") ?? "")
      .split(",")
      .filter((name) => name !== "")
      .map((name) => ({ column: decodeURIComponent(name.replace(/^-/, "")), descending: name.startsWith("-") }));
  }

  /** Return the address with parameters changed, or removed by null. It shows the first page unless one is selected. */
  with(changed: Record<string, string | null>): string {
    const search = new URLSearchParams(this.parameters);
    for (const name of PLACES) search.delete(name);
    for (const [name, value] of Object.entries(changed)) {
      if (value === null) search.delete(name);
      else search.set(name, value);
    }
    return `/t/${encodeURIComponent(this.table)}${search.size ? `?${search}` : ""}`;
  }

  sorted(sort: Sort[]): string {
    return this.with({
      sort: sort.map(({ column, descending }) => `${descending ? "-" : ""}${encodedName(column)}`).join(",") || null,
    });
  }

  filtered(filter: Group): string {
    return this.with({ filter: writeFilter(filter) });
  }

  /** Return the address with one more condition that must match. */
  narrowed(condition: Condition): string {
    return this.filtered(narrowed(this.filter, condition));
  }
}
