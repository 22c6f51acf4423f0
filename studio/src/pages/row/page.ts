// The page of one row: its full values, its references, and the rows that reference it.

import { type Cell, type Column, get, referencePath, rowPath, rowsPath, type Table, wholeValue } from "../../api.ts";
import { undoLast } from "../../changes/review.ts";
import { NO_HISTORY, onChanges } from "../../changes/staged.ts";
import { button, type Child, copyText, h, number, plural, replace } from "../../dom.ts";
import { drawLabel } from "../../labels.ts";
import { keyParts, shownKey, shownName } from "../../names.ts";
import { note } from "../../notes.ts";
import { showing } from "../../parts.ts";
import type { Page } from "../../router.ts";
import { writable } from "../../session.ts";
import { RowFields } from "./fields.ts";

type Reference = { table: string; key: string; label: string | null };
type Answer = {
  row: Record<string, Cell>;
  label: string | null;
  references: Record<string, Reference | null>;
  referenced_by: { table: string; column: string; value: string; rows: number; more?: boolean }[];
};

export function rowPage(table: Table, key: string): Page {
  const tools = h("span.row");
  const name = h("span");
  const body = h("div");
  let fields: RowFields | undefined;
  const stopListening = onChanges(() => fields?.showChanges());
  const load = (arrived = (): void => {}): Promise<void> =>
    showing(body, async () => {
      const path = `/api/row/${encodeURIComponent(table.name)}/${encodeURIComponent(key)}`;
      const { row, label, references, referenced_by } = await get<Answer>(path).finally(arrived);
      const links = Object.fromEntries(
        table.columns.map((column) => [column.name, link(column, references[column.name] ?? null)]),
      );
      fields = new RowFields(table, { key, cells: row, links });
      replace(name, drawLabel(label, key));
      replace(tools, actions(table, key, row));
      replace(body, note(table), h("div.row-parts", fields.element, incoming(referenced_by)), h("p.muted", NO_HISTORY));
    });
  void load();
  const title = h(
    "h1",
    h("a", { href: rowsPath(table.name) }, shownName(table.name)),
    " ",
    h("span.key", shownKey(key)),
    name,
  );
  return {
    title: `${shownName(table.name)} ${shownKey(key)}`,
    element: h("section.page.row-page", h("div.toolbar", title, h("span.grow"), tools), body),
    reload: (arrived) => void load(arrived),
    leave: stopListening,
    keys: writable() ? { "Ctrl+z": undoLast } : {},
  };
}

function actions(table: Table, key: string, row: Record<string, Cell>): HTMLElement[] {
  const parts = keyParts(table.key, key);
  const filter = { all: table.key.map((column, at) => ({ column, op: "is", value: parts[at] })) };
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

function link({ references }: Column, found: Reference | null): HTMLElement | undefined {
  if (!found) return undefined;
  const { table, key, label } = found;
  return h(
    "a.follow",
    { href: references ? referencePath(references, key) : rowPath(table, key) },
    `${shownName(table)} ${key}`,
    drawLabel(label, key),
  );
}

/** The rows that reference this one, by column. */
function incoming(references: Answer["referenced_by"]): HTMLElement {
  const none = references.filter(({ rows }) => !rows).map(({ table, column }) => `${shownName(table)}.${column}`);
  const items = references
    .filter(({ rows }) => rows)
    .map(({ table, column, value, rows, more }) => {
      const filter = { all: [{ column, op: "is", value }] };
      const count = more ? `at least ${number(rows)} rows` : plural(rows, "row");
      return h(
        "li",
        h("a", { href: rowsPath(table, filter) }, h("strong", shownName(table)), ` ${column}`),
        h("span.muted", ` ${count}`),
      );
    });
  const rest: Child =
    none.length > 0
      ? h("p.muted", `No rows in ${none.join(", ")}`)
      : references.length === 0 && h("p.muted", "No table references this one.");
  return h("section.incoming", h("h2", "Referenced by"), items.length > 0 && h("ul.plain", items), rest);
}
