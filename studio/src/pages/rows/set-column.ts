// The form that sets one column in all selected rows.

import type { GridApi } from "ag-grid-community";
import type { Column, Table, Whole } from "../../api.ts";
import { announce, button, h, plural, popover, replace } from "../../dom.ts";
import { editorFor } from "../../editors.ts";
import { columnNamed, type Row } from "./cells.ts";
import { putInAll } from "./edits.ts";
import { activeColumn, selectedRows } from "./selection.ts";

/** Open the form below `anchor`, on the column of the focused cell. */
export function setColumn(anchor: HTMLElement, table: Table, grid: GridApi<Row>): void {
  const rows = selectedRows(grid);
  const columns = table.columns.filter(({ primary, editable }) => !primary && editable);
  if (!rows.length || !columns.length) {
    announce("Tick the rows to change first.");
    return;
  }
  const choice = h(
    "select",
    { "aria-label": "Column", onchange: () => draw() },
    columns.map(({ name }) => h("option", { value: name }, name)),
  );
  const focus = columns.find(({ name }) => name === activeColumn(grid));
  if (focus) choice.value = focus.name;
  const place = h("div.set-value");
  const done = (column: Column, value: Whole): void => {
    panel.hidePopover();
    void putInAll(table, rows, column, value);
  };
  let apply = (): void => {};
  const draw = (): void => {
    const column = columnNamed(table, choice.value);
    if (column) apply = valueForm(place, table, column, (value) => done(column, value));
  };
  const title = h("h3", `Set a column in ${plural(rows.length, "row")}`);
  const submit = button("Stage", () => apply(), { class: "primary" });
  const panel = popover(anchor, "Set column", title, choice, place, h("div.row", h("span.grow"), submit));
  panel.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.target as Element).matches("textarea, input")) return;
    event.preventDefault();
    apply();
  });
  draw();
}

/** Draw the column's own editor, with what it offers beside a typed value. Returns the function that accepts it. */
function valueForm(place: HTMLElement, table: Table, column: Column, done: (value: Whole) => void): () => void {
  const editor = editorFor(column, table.name, place, () => accept());
  const accept = (): void => {
    const value = editor.getValue();
    // Only a text may be empty.
    if (value === "" && column.kind !== "text") announce(`Type a value for ${column.name}.`);
    else done(value);
  };
  const hasNow = ["timestamp", "date", "time"].includes(column.kind);
  const now = hasNow && button("Now", () => done("now"), { title: "The time of the save, in UTC" });
  replace(place, editor.getGui(), now);
  return () => void editor.finish();
}
