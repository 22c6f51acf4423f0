// The page of one row: its full values, its references, and the rows that reference it.

import { type Cell, type Column, get, isCut, rowPath, rowsPath, type Table, wholeValue } from "../api.ts";
import { button, type Child, copyText, h, number, plural, replace } from "../dom.ts";
import { drawLabel } from "../labels.ts";
import { showing } from "../parts.ts";
import type { Page } from "../router.ts";
import { writable } from "../session.ts";
import { plain, SHOWN_LENGTH, shortType } from "../text.ts";
import { oneLine, whole } from "../values.ts";

type Reference = { table: string; key: string; label: string | null };
type Answer = {
  row: Record<string, Cell>;
  label: string | null;
  references: Record<string, Reference | null>;
  referenced_by: { table: string; column: string; rows: number; more?: boolean }[];
};

export function rowPage(table: Table, key: string): Page {
  const tools = h("span.row");
  const name = h("span");
  const body = h("div");
  const load = (): Promise<void> =>
    showing(body, async () => {
      const { row, label, references, referenced_by } = await get<Answer>(
        `/api/row/${table.name}/${encodeURIComponent(key)}`,
      );
      replace(name, drawLabel(label, key));
      replace(tools, actions(table, key, row));
      replace(body, h("div.row-parts", values(table, key, row, references), incoming(key, referenced_by)));
    });
  void load();
  const title = h("h1", h("a", { href: rowsPath(table.name) }, table.name), " ", h("span.key", key), name);
  return {
    title: `${table.name} ${key}`,
    element: h("section.page.row-page", h("div.toolbar", title, h("span.grow"), tools), body),
    reload: (arrived) => {
      arrived();
      void load();
    },
  };
}

function actions(table: Table, key: string, row: Record<string, Cell>): HTMLElement[] {
  const filter = { all: [{ column: table.primary_key, op: "is", value: key }] };
  const copyRow = async (): Promise<void> => {
    const read = async ([name, cell]: [string, Cell]) => [name, await wholeValue(table.name, name, key, cell)] as const;
    const all = Object.fromEntries(await Promise.all(Object.entries(row).map(read)));
    await copyText(JSON.stringify(all, null, 2));
  };
  return [
    h("a.button", { href: rowsPath(table.name, filter) }, writable() ? "Edit in the table" : "Show in the table"),
    button("Copy as JSON", () => void copyRow()),
  ];
}

const values = (table: Table, key: string, row: Record<string, Cell>, references: Answer["references"]): HTMLElement =>
  h(
    "dl.values",
    table.columns.map((column) => {
      const cell = row[column.name] ?? null;
      const copy = async (): Promise<void> => copyText(plain(await wholeValue(table.name, column.name, key, cell)));
      const copier = button("Copy", () => void copy(), { class: "quiet copy", "aria-label": `Copy ${column.name}` });
      return h(
        "div",
        h("dt", h("span", column.name), h("span.type", describe(column))),
        h(
          "dd",
          value(table, key, column, cell, references[column.name] ?? null),
          cell !== null && cell !== "" && copier,
        ),
      );
    }),
  );

const describe = ({ type, primary, nullable }: Column): string =>
  `${shortType(type)}${primary ? " · primary key" : nullable ? "" : " · not null"}`;

function value(table: Table, key: string, column: Column, cell: Cell, reference: Reference | null): HTMLElement {
  const element = h("div.value");
  const showWhole = async (): Promise<void> =>
    replace(element, whole(await wholeValue(table.name, column.name, key, cell)));
  if (isCut(cell)) {
    const line = oneLine({ ...cell, cut: cell.cut.slice(0, SHOWN_LENGTH) });
    replace(
      element,
      line,
      " ",
      button("Show full value", () => void showWhole()),
    );
  } else if (reference) {
    replace(element, link(reference));
  } else {
    const isLine = typeof cell === "string" && !cell.includes("\n") && cell.length < SHOWN_LENGTH;
    replace(element, isLine ? oneLine(cell) : whole(cell));
  }
  return element;
}

const link = ({ table, key, label }: Reference): HTMLElement =>
  h("a.follow", { href: rowPath(table, key) }, `${table} ${key}`, drawLabel(label, key));

/** The rows that reference this one, by column. */
function incoming(key: string, references: Answer["referenced_by"]): HTMLElement {
  const none = references.filter(({ rows }) => !rows).map(({ table, column }) => `${table}.${column}`);
  const items = references
    .filter(({ rows }) => rows)
    .map(({ table, column, rows, more }) => {
      const filter = { all: [{ column, op: "is", value: key }] };
      const count = more ? `at least ${number(rows)} rows` : plural(rows, "row");
      return h(
        "li",
        h("a", { href: rowsPath(table, filter) }, h("strong", table), ` ${column}`),
        h("span.muted", ` ${count}`),
      );
    });
  const rest: Child =
    none.length > 0
      ? h("p.muted", `No rows in ${none.join(", ")}`)
      : references.length === 0 && h("p.muted", "No table references this one.");
  return h("section.incoming", h("h2", "Referenced by"), items.length > 0 && h("ul.plain", items), rest);
}
