// The list of tables: those of `public` first, then one group for each other schema.

import { rowsPath, type TableName } from "./api.ts";
import { h, replace } from "./dom.ts";
import { readTables, tables } from "./session.ts";

/** Draw the list, at once with the tables of the models, and again with all tables once they are read. */
export function tableList(arrived: () => void): HTMLElement {
  const list = h("nav.tables", { "aria-label": "Tables" });
  const draw = (): void => {
    const focused = list.contains(document.activeElement) ? document.activeElement?.getAttribute("href") : undefined;
    replace(list, groups());
    for (const anchor of list.querySelectorAll("a")) if (anchor.getAttribute("href") === focused) anchor.focus();
  };
  draw();
  // Without an answer the list stays; the banner says what is wrong.
  void readTables().then(
    () => {
      draw();
      arrived();
    },
    () => {},
  );
  return list;
}

function groups(): HTMLElement[] {
  const schemas = [...new Set(tables.map(({ schema }) => schema))];
  return schemas.flatMap((schema) => [
    h("h2", schemas.length > 1 ? schema : "Tables"),
    ...tables.filter((table) => table.schema === schema).map(link),
  ]);
}

const link = ({ name, title, kind, readable }: TableName): HTMLElement =>
  h(
    "a",
    {
      href: rowsPath(name),
      title: [kind === "table" ? "" : kind, readable ? "" : "The role may not read it"].filter(Boolean).join(". "),
      class: readable ? undefined : "muted",
    },
    title,
  );
