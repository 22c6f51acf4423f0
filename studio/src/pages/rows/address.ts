// What the address of the page asks for: a filter, an order, and the page of rows.

import { type Condition, type Group, narrowed, readFilter, writeFilter } from "../../filters/filter.ts";

export type Sort = { column: string; descending: boolean };

/** The page of rows: after or before a key, or the last one; without any, the first. */
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

  /** The columns to sort by, the most important first: `belt,-id` in the address. */
  get sort(): Sort[] {
    return (this.parameters.get("sort") ?? "")
      .split(",")
      .filter((name) => name !== "")
      .map((name) => ({ column: name.replace(/^-/, ""), descending: name.startsWith("-") }));
  }

  /** The address with some parameters changed, or removed by null; it shows the first page, unless a place is among them. */
  with(changed: Record<string, string | null>): string {
    const search = new URLSearchParams(this.parameters);
    for (const name of PLACES) search.delete(name);
    for (const [name, value] of Object.entries(changed)) {
      if (value === null) search.delete(name);
      else search.set(name, value);
    }
    return `/t/${this.table}${search.size ? `?${search}` : ""}`;
  }

  sorted(sort: Sort[]): string {
    return this.with({
      sort: sort.map(({ column, descending }) => (descending ? `-${column}` : column)).join(",") || null,
    });
  }

  filtered(filter: Group): string {
    return this.with({ filter: writeFilter(filter) });
  }

  /** The address of the rows for which a condition holds as well. */
  narrowed(condition: Condition): string {
    return this.filtered(narrowed(this.filter, condition));
  }
}
