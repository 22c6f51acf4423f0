// The diff of a staged change: each value before and after, and the reason if the database rejected it.

import type { Cell, Table, Whole } from "../api.ts";
import { button, type Child, h } from "../dom.ts";
import { drawLabel, labelOf, placeOf, readLabels, referenceLabel } from "../labels.ts";
import { session } from "../session.ts";
import { oneLine, whole } from "../values.ts";
import { type Change, changeName, isRejected } from "./staged.ts";

export function diff(change: Change, discard: () => void): HTMLElement {
  const name = changeName(change);
  const shown = Object.keys(change.op === "delete" ? change.was : change.values);
  // The database may reject a column that has no value.
  const columns = [...new Set([...shown, ...Object.keys(change.errors)])];
  return h(
    "li",
    { class: `change ${change.op}${isRejected(change) ? " rejected" : ""}` },
    h(
      "div.head",
      h("span.op", change.op),
      h("strong", name, drawLabel(labelOf(change.table, change.key))),
      button("Undo", discard, { class: "quiet", "aria-label": `Undo: ${change.op} ${name}` }),
    ),
    change.error !== undefined && h("p.wrong", change.error),
    change.op === "insert" && !columns.length && h("p.muted", "Every column takes its default value."),
    h(
      "dl.diff",
      columns.map((column) => [h("dt", column), values(change, column)]),
    ),
  );
}

const values = ({ table, op, was, values, errors }: Change, column: string): HTMLElement =>
  h(
    "dd",
    { class: errors[column] !== undefined ? "rejected" : "" },
    op !== "insert" && h("del", named(table, column, was[column])),
    op !== "delete" && h("ins", named(table, column, values[column])),
    errors[column] !== undefined && h("p.wrong", errors[column]),
  );

const tableOf = (name: string): Table | undefined => session.tables.find((table) => table.name === name);

/** Draw a value, and after a reference the name of the row that it refers to. */
function named(tableName: string, column: string, value: Whole | undefined): Child {
  const table = tableOf(tableName);
  return [shownValue(value), table ? drawLabel(referenceLabel(table, column, value)) : false];
}

/** Read the names of the changed rows and of those that they refer to. */
export async function readNames(changes: Change[]): Promise<void> {
  const wanted = new Map<string, Set<string>>();
  const want = (table: string, key: string): unknown => wanted.set(table, (wanted.get(table) ?? new Set()).add(key));
  for (const { op, table, key, was, values } of changes) {
    if (op !== "insert") want(table, key);
    for (const { name, references } of tableOf(table)?.columns ?? [])
      for (const value of [was[name], values[name]])
        if (references && typeof value === "string") want(placeOf(references), value);
  }
  await Promise.all([...wanted].map(([table, keys]) => readLabels(table, keys)));
}

/** Draw a value: a short text with all its lines, any other value in one line. */
export const shownValue = (value: Cell | undefined): HTMLElement =>
  isShortText(value) && value.includes("\n") ? whole(value) : oneLine(value);

const isShortText = (value: Cell | undefined): value is string => typeof value === "string" && value.length < 5000;
