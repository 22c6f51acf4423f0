// Stages changes from the grid: values, NULL, new rows, deletions, and pasted text.

import type { GridApi } from "ag-grid-community";
import { asRefused, type Column, isCut, type Table, type Whole, wholeValue } from "../../api.ts";
import { change, changeOf, stage, stageDeletions, stageInsert } from "../../changes/staged.ts";
import { announce, plural } from "../../dom.ts";
import { writable } from "../../session.ts";
import { columnNamed, isDeleted, mayEdit, type Row, shownValue, wholeShownValue } from "./cells.ts";
import { activeColumn, activeRow, selectedRows } from "./selection.ts";

export type Focus = { row?: Row | undefined; column?: Column | undefined };

export function focused(table: Table, grid: GridApi<Row>): Focus {
  const cell = grid.getFocusedCell();
  if (!cell) return {};
  return { row: grid.getDisplayedRowAtIndex(cell.rowIndex)?.data, column: columnNamed(table, cell.column.getColId()) };
}

/** Return true in write mode; otherwise show a message. */
function mayWrite(): boolean {
  if (!writable()) announce("The studio is read-only. Start it with --write to change data.");
  return writable();
}

const notEditable = (table: Table, column: Column): string =>
  table.obstacle ?? `${column.name} cannot be edited: PostgreSQL writes it, or the role may not.`;

/** Stage a value for a cell. Setting NULL where a new row has no value yet does nothing. */
export function put(table: Table, row: Row, column: Column, value: Whole): void {
  const before = row.isNew ? null : (row.cells[column.name] ?? null);
  const staged = changeOf(table.name, row.key)?.values[column.name];
  if (row.isNew && value === null && staged === undefined) return;
  stage(table.name, row.key, column.name, isCut(before) ? null : before, value);
}

/** Read the full value of a cut cell into the row, because a staged change holds the original value. */
export async function readWhole(table: Table, row: Row, column: Column): Promise<void> {
  const cell = row.cells[column.name];
  if (isCut(cell)) row.cells[column.name] = await wholeValue(table.name, column.name, row.key, cell);
}

export async function setNull(table: Table, row: Row, column: Column): Promise<void> {
  if (!mayWrite()) return;
  if (!mayEdit(table, row, column)) {
    announce(notEditable(table, column));
    return;
  }
  if (!column.nullable) {
    announce(`${column.name} cannot be NULL.`);
    return;
  }
  await readWhole(table, row, column);
  put(table, row, column, null);
}

/** Read the full value of a cut cell and open its editor. Returns false if the cell is not cut or cannot be edited. */
export async function editCut(table: Table, grid: GridApi<Row>, row: Row, column: Column): Promise<boolean> {
  if (!writable() || !mayEdit(table, row, column) || isDeleted(table, row) || !isCut(shownValue(table, row, column)))
    return false;
  await readWhole(table, row, column);
  const rowIndex = grid.getRowNode(row.key)?.rowIndex;
  if (rowIndex !== null && rowIndex !== undefined) grid.startEditingCell({ rowIndex, colKey: column.name });
  return true;
}

export function newRow(table: Table, grid: GridApi<Row>): void {
  if (!mayWrite()) return;
  if (!table.may_insert) {
    announce(table.obstacle ?? "The role may not insert rows into this table.");
    return;
  }
  const key = stageInsert(table.name);
  grid.ensureIndexVisible(0, "top");
  const shown = grid.getAllDisplayedColumns();
  const target =
    shown.find((column) => {
      const found = columnNamed(table, column.getColId());
      return found?.default === null && !found.primary;
    }) ?? shown[0];
  if (!target) return;
  grid.ensureColumnVisible(target);
  grid.setFocusedCell(grid.getRowNode(key)?.rowIndex ?? 0, target);
}

/** Stage or undo the deletion of the selected rows, or of the focused cell's row if none is selected. */
export function deleteRows(table: Table, grid: GridApi<Row>): void {
  if (!mayWrite()) return;
  if (!table.may_delete) {
    announce(table.obstacle ?? "The role may not delete rows of this table.");
    return;
  }
  const targets = selectedRows(grid);
  if (!targets.length) announce("Tick rows, or select a cell of the row to delete.");
  else stageDeletions(table.name, targets);
  grid.deselectAll();
}

/** Stage a value for a column of several rows, in one step. Rows that are staged for deletion are left out. */
export async function putInAll(table: Table, rows: Row[], column: Column, value: Whole): Promise<void> {
  const targets = rows.filter((row) => !isDeleted(table, row) && mayEdit(table, row, column));
  if (!targets.length) {
    announce(notEditable(table, column));
    return;
  }
  try {
    for (const row of targets) await readWhole(table, row, column);
  } catch (error) {
    announce(asRefused(error).problem.what);
    return;
  }
  change(() => {
    for (const row of targets) put(table, row, column, value);
  });
  announce(`${column.name} is staged in ${plural(targets.length, "row")}. Ctrl+Z undoes it.`);
}

const isTyping = (): boolean => !!document.activeElement?.matches("textarea, select, input:not([type=checkbox])");

/** Stage the value of the first selected row in the others, in the column of the focused cell. */
export async function fillDown(table: Table, grid: GridApi<Row>): Promise<void> {
  if (isTyping() || !mayWrite()) return;
  const column = columnNamed(table, activeColumn(grid));
  const selected = new Set(selectedRows(grid));
  const focus = activeRow(grid);
  if (focus) selected.add(focus);
  const shown: Row[] = [];
  grid.forEachNode(({ data }) => data && shown.push(data));
  let [first, ...others] = shown.filter((row) => selected.has(row));
  // As in a spreadsheet, a single cell gets the value above it.
  const above = first && shown[shown.indexOf(first) - 1];
  if (first && !others.length && above) [first, others] = [above, [first]];
  if (!column || !first || !others.length) {
    announce("Select a cell, and tick the rows below it that get its value.");
    return;
  }
  const value = await wholeShownValue(table, first, column);
  if (value === undefined) announce("The first cell has no value yet.");
  else await putInAll(table, others, column, value);
}
