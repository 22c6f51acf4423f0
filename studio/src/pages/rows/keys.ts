// The keyboard shortcuts of the cells.

import type { CellKeyDownEvent, GridApi } from "ag-grid-community";
import type { Column, Table } from "../../api.ts";
import { MENU_KEYS } from "../../context-menu.ts";
import { announce, copyText } from "../../dom.ts";
import { keyName } from "../../keys.ts";
import { go } from "../../router.ts";
import { writable } from "../../session.ts";
import { plain } from "../../text.ts";
import { tabSeparated } from "../../written.ts";
import { canEdit, columnNamed, linkOf, type Row, wholeShownValue } from "./cells.ts";
import { rememberCopied } from "./copied.ts";
import { editCut, setNull } from "./edits.ts";
import { type CellPlace, openMenuBelow } from "./menu.ts";
import type { ValuePanel } from "./panel.ts";
import { extendBy, noteFocus, rangedRows, tick } from "./selection.ts";

/** Open the editor of a cut cell, or show the full value of a cell that cannot be edited. */
export async function editOrShow(
  table: Table,
  grid: GridApi<Row>,
  panel: ValuePanel,
  row: Row,
  column: Column,
): Promise<void> {
  if (!(await editCut(table, grid, row, column))) await panel.show(row, column);
}

export function onCellKey(place: CellPlace, { data: row, colDef, event }: CellKeyDownEvent<Row>): void {
  const column = columnNamed(place.table, colDef.colId);
  if (!row || !column || !(event instanceof KeyboardEvent) || place.grid.getEditingCells().length) return;
  // The grid reports a new focus later than the next key, if keys follow each other quickly.
  noteFocus(place.table, place.grid);
  const name = keyName(event);
  const cell = (event.target as Element).closest(".ag-cell");
  const act =
    cell && MENU_KEYS.includes(name)
      ? () => openMenuBelow(place, row, column, cell)
      : actions(place, row, column)[name];
  if (!act) return;
  event.preventDefault();
  act();
}

function actions(
  { table, grid, panel }: CellPlace,
  row: Row,
  column: Column,
): Record<string, (() => void) | undefined> {
  const link = linkOf(table, row, column);
  return {
    " ": () => void panel.show(row, column),
    // The grid itself opens the editor of a cell that can be edited.
    Enter: canEdit(table, row, column) ? undefined : () => void editOrShow(table, grid, panel, row, column),
    F4: () => (link ? go(link) : announce("This cell references no row.")),
    Delete: () => void setNull(table, row, column),
    "Ctrl+c": () => void copyCells(table, grid, row, column),
    "Shift+ArrowDown": () => extendBy(grid, 1),
    "Shift+ArrowUp": () => extendBy(grid, -1),
    "Shift+ ": () => tick(grid),
    "Ctrl+a": writable() ? () => grid.selectAll() : undefined,
    Escape: () => panel.close(),
  };
}

/** Copy the value of a cell, or those of the range that it ends, one on each line. */
async function copyCells(table: Table, grid: GridApi<Row>, row: Row, column: Column): Promise<void> {
  const rows = rangedRows(grid);
  if (rows.length < 2) return copyText(rememberCopied(plain(await wholeShownValue(table, row, column))));
  const values = await Promise.all(rows.map((one) => wholeShownValue(table, one, column)));
  await copyText(tabSeparated(values.map((value) => [value])), `Copied ${rows.length} values.`);
}
