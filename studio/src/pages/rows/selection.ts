// The rows and cells that are selected: ticked rows, or a range of cells in one column.

import type { GridApi, IRowNode } from "ag-grid-community";
import type { Table } from "../../api.ts";
import { columnNamed, type Row } from "./cells.ts";

type Place = { row: number; column: string };
/** A range of cells of a column, from the cell where it began to the focused one. */
type Range = { column: string; from: number; to: number };

const ranges = new WeakMap<GridApi<Row>, Range>();
const active = new WeakMap<GridApi<Row>, Place>();

/** Record the focused cell. A range ends when the focus leaves its end. */
export function noteFocus(table: Table, grid: GridApi<Row>): void {
  const cell = grid.getFocusedCell();
  const column = cell?.column.getColId();
  // The boxes that tick rows have a column of their own.
  if (!cell || !columnNamed(table, column)) return;
  active.set(grid, { row: cell.rowIndex, column: cell.column.getColId() });
  const range = ranges.get(grid);
  if (range && (range.column !== column || range.to !== cell.rowIndex)) clearRange(grid);
}

export function clearRange(grid: GridApi<Row>): void {
  if (ranges.delete(grid)) grid.refreshCells({ force: true });
}

/** Select the cells of a column from the focused cell, or from the start of the range, to a row. */
function extendTo(grid: GridApi<Row>, row: number): void {
  const focus = active.get(grid);
  if (!focus || row < 0 || row >= grid.getDisplayedRowCount()) return;
  ranges.set(grid, { column: focus.column, from: ranges.get(grid)?.from ?? focus.row, to: row });
  grid.ensureIndexVisible(row);
  grid.setFocusedCell(row, focus.column);
  grid.refreshCells({ force: true, columns: [focus.column] });
}

/** Select one more cell above or below the focused one. */
export const extendBy = (grid: GridApi<Row>, step: number): void => extendTo(grid, (active.get(grid)?.row ?? 0) + step);

/** Select the cells down or up to the one that is clicked with Shift. */
export function onMouseDown(grid: GridApi<Row>, event: MouseEvent): void {
  if (!event.shiftKey || event.button) return;
  const cell = (event.target as Element).closest(".ag-cell[col-id]");
  const row = Number(cell?.closest(".ag-row")?.getAttribute("row-index") ?? -1);
  if (row < 0 || cell?.getAttribute("col-id") !== active.get(grid)?.column) return;
  // Otherwise the browser selects the text between the two, and the grid moves the focus before the range is known.
  event.preventDefault();
  event.stopPropagation();
  extendTo(grid, row);
}

export function isInRange(grid: GridApi<Row>, row: number | null, column: string): boolean {
  const range = ranges.get(grid);
  if (row === null || range?.column !== column) return false;
  return Math.min(range.from, range.to) <= row && row <= Math.max(range.from, range.to);
}

/** Return the rows of the range; none without a range. */
export function rangedRows(grid: GridApi<Row>): Row[] {
  const column = ranges.get(grid)?.column;
  const rows: Row[] = [];
  grid.forEachNode(({ data, rowIndex }) => {
    if (data && column && isInRange(grid, rowIndex, column)) rows.push(data);
  });
  return rows;
}

/** The column of the focused cell, or the one that had the focus before a row was ticked. */
export const activeColumn = (grid: GridApi<Row>): string | undefined => active.get(grid)?.column;

export const activeRow = (grid: GridApi<Row>): Row | undefined =>
  grid.getDisplayedRowAtIndex(active.get(grid)?.row ?? -1)?.data;

/** Tick the rows of the range or of the focused cell; if all of them are ticked, untick them. */
export function tick(grid: GridApi<Row>): void {
  const row = active.get(grid)?.row;
  const { from, to } = ranges.get(grid) ?? { from: row ?? -1, to: row ?? -1 };
  const nodes: IRowNode<Row>[] = [];
  grid.forEachNode((node) => {
    const index = node.rowIndex ?? -1;
    if (Math.min(from, to) <= index && index <= Math.max(from, to)) nodes.push(node);
  });
  grid.setNodesSelected({ nodes, newValue: !nodes.every((node) => node.isSelected()) });
}

/** Return the ticked rows in their order on the page; otherwise the rows of the range, or of the focused cell. */
export function selectedRows(grid: GridApi<Row>): Row[] {
  const rows: Row[] = [];
  const range = ranges.get(grid);
  const isTicked = grid.getSelectedNodes().length > 0;
  grid.forEachNode((node) => {
    const isSelected = isTicked
      ? node.isSelected()
      : range
        ? isInRange(grid, node.rowIndex, range.column)
        : node.rowIndex === active.get(grid)?.row;
    if (node.data && isSelected) rows.push(node.data);
  });
  return rows;
}
