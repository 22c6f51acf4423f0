// A column of a table as the server describes it.

import type { Column } from "../src/api.ts";

/** Return a column of texts, with changed properties. */
export const column = (name: string, changed: Partial<Column> = {}): Column => ({
  name,
  type: "text",
  kind: "text",
  nullable: true,
  default: null,
  unique: false,
  primary: false,
  references: null,
  values: null,
  sortable: true,
  editable: true,
  insertable: true,
  ...changed,
});
