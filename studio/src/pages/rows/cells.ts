// The cells of the grid: their values, with staged changes applied, their links, and whether they can be edited.

import {
  type Cell,
  type Column,
  isCut,
  Refused,
  referencePath,
  rowPath,
  type Table,
  type Whole,
  wholeValue,
} from "../../api.ts";
import { changeOf } from "../../changes/staged.ts";
import { writable } from "../../session.ts";

export type Row = { key: string; cells: Record<string, Cell>; isNew?: boolean };

/** Return the staged value of a cell, or the one in the database; undefined if the database will fill in a default. */
export function shownValue(table: Table, row: Row, column: Column): Cell | undefined {
  const change = changeOf(table.name, row.key);
  if (change && column.name in change.values) return change.values[column.name];
  return row.isNew ? undefined : (row.cells[column.name] ?? null);
}

export async function wholeShownValue(table: Table, row: Row, column: Column): Promise<Whole | undefined> {
  const cell = shownValue(table, row, column);
  if (isCut(cell) && !table.key.length)
    throw new Refused(0, {
      what: "This table has no key, so the studio cannot read one of its values in full. Use SQL.",
    });
  return cell === undefined ? cell : wholeValue(table.name, column.name, row.key, cell);
}

/** Return the address of the row that a cell references; a primary key leads to its own row. */
export function linkOf(table: Table, row: Row, column: Column): string | null {
  const cell = shownValue(table, row, column);
  if (typeof cell !== "string") return null;
  if (column.references) return referencePath(column.references, cell);
  return column.primary && !row.isNew ? rowPath(table.name, row.key) : null;
}

export const isDeleted = (table: Table, row: Row): boolean => changeOf(table.name, row.key)?.op === "delete";

/** True if an editor can open over the cell. A cut value must be read in full first. */
export const canEdit = (table: Table, row: Row, column: Column): boolean =>
  writable() && mayEdit(table, row, column) && !isDeleted(table, row) && !isCut(shownValue(table, row, column));

/** True if the role may write the column and PostgreSQL does not write it by itself. */
export const mayEdit = (table: Table, row: Row, column: Column): boolean =>
  row.isNew ? table.may_insert && column.insertable : table.may_update && column.editable;

export const columnNamed = (table: Table, name: string | undefined): Column | undefined =>
  table.columns.find((column) => column.name === name);
