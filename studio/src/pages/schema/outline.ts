// The outline: the content of the diagram as text, also for screen readers.

import { type Column, rowsPath, type Table } from "../../api.ts";
import { h } from "../../dom.ts";

export const outlineOf = (tables: Table[]): HTMLElement =>
  h(
    "section.outline.sr",
    { "aria-label": "Outline" },
    h("h2", "Outline"),
    tables.map(({ name, columns, referenced_by }) => [
      h("h3", h("a", { href: rowsPath(name) }, name)),
      h(
        "ul",
        columns.map((column) => h("li", h("b", column.name), ` ${describe(column)}`)),
      ),
      referenced_by.length > 0 &&
        h("p", `Referenced by ${referenced_by.map(({ table, column }) => `${table}.${column}`).join(", ")}`),
    ]),
  );

const describe = (column: Column): string =>
  [
    column.type,
    column.primary && "primary key",
    column.unique && "unique",
    !column.nullable && "not null",
    column.references && `references ${column.references.table}.${column.references.column}`,
    column.default && `default ${column.default}`,
  ]
    .filter(Boolean)
    .join(", ");
