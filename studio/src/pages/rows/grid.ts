// The grid of rows: its options, its sort marks, its columns, and its focus.

import type { CellKeyDownEvent, CellPosition, GridApi, GridOptions, TabToNextCellParams } from "ag-grid-community";
import type { Table } from "../../api.ts";
import { makeGrid } from "../../grid.ts";
import { keyName } from "../../keys.ts";
import { go } from "../../router.ts";
import type { RowsAddress } from "./address.ts";
import { canEdit, columnNamed, isDeleted, type Row } from "./cells.ts";
import { columnDefinitions, forgetLayout, readLayout, rememberLayout } from "./columns.ts";
import { focused } from "./edits.ts";
import { editOrShow, onCellKey } from "./keys.ts";
import { openCellMenu } from "./menu.ts";
import type { ValuePanel } from "./panel.ts";
import { noteFocus } from "./selection.ts";

export function rowsGrid(place: HTMLElement, table: Table, address: RowsAddress, panel: ValuePanel): GridApi<Row> {
  return makeGrid<Row>(place, {
    columnDefs: columnDefinitions(table, readLayout(table), [], (row, column) => void panel.show(row, column)),
    rowData: [],
    getRowId: ({ data }) => data.key,
    ...SELECTION,
    rowClassRules: {
      gone: ({ data }) => !!data && isDeleted(table, data),
      fresh: ({ data }) => !!data?.isNew,
    },
    enterNavigatesVerticallyAfterEdit: true,
    tabToNextCell: (step) => tabbed(table, step),
    loading: true,
    overlayNoRowsTemplate: "<span>No rows</span>",
    ...layoutEvents(table, address),
    ...cellEvents(table, address, panel),
  });
}

/** In a new row, Tab edits the next cell and leaves the row at its end. Elsewhere it leaves the grid, or the editor. */
function tabbed(
  table: Table,
  { api, backwards, editing, previousCellPosition, nextCellPosition }: TabToNextCellParams<Row>,
): CellPosition | boolean {
  const row = api.getDisplayedRowAtIndex(previousCellPosition.rowIndex)?.data;
  if (!row?.isNew) return editing && nextCellPosition ? nextCellPosition : false;
  const columns = api.getAllDisplayedColumns();
  const rest = backwards
    ? columns.slice(0, columns.indexOf(previousCellPosition.column)).reverse()
    : columns.slice(columns.indexOf(previousCellPosition.column) + 1);
  const next = rest.find((shown) => {
    const column = columnNamed(table, shown.getColId());
    return column && canEdit(table, row, column);
  });
  if (!next) return false;
  const position = { ...previousCellPosition, column: next };
  if (!editing) queueMicrotask(() => api.startEditingCell({ rowIndex: position.rowIndex, colKey: next }));
  return position;
}

const SELECTION: GridOptions<Row> = {
  rowSelection: { mode: "multiRow", enableClickSelection: false, checkboxes: true, headerCheckbox: true },
  selectionColumnDef: {
    ...{ width: 40, minWidth: 40, maxWidth: 40, pinned: "left", resizable: false },
    // The grid would take these keys, and do nothing.
    suppressKeyboardEvent: ({ event }) => /^Ctrl\+[dz]$/.test(keyName(event)),
  },
};

const layoutEvents = (table: Table, address: RowsAddress): GridOptions<Row> => ({
  onSortChanged: ({ source, api }) => {
    if (source === "api" || source === "gridOptionsChanged") return;
    const states = api.getColumnState().filter(({ sort }) => sort);
    states.sort((one, other) => (one.sortIndex ?? 0) - (other.sortIndex ?? 0));
    go(address.sorted(states.map(({ colId, sort }) => ({ column: colId, descending: sort === "desc" }))));
  },
  onColumnMoved: ({ finished, api }) => finished && rememberLayout(table, api),
  onColumnResized: ({ finished, source, api }) => finished && source !== "api" && rememberLayout(table, api),
  onColumnVisible: ({ api }) => rememberLayout(table, api),
});

const cellEvents = (table: Table, address: RowsAddress, panel: ValuePanel): GridOptions<Row> => ({
  onCellKeyDown: (event) => onCellKey({ table, grid: event.api, panel, address }, event as CellKeyDownEvent<Row>),
  // Shift and the right button open the browser's own menu.
  onCellContextMenu: ({ event, data, colDef, api }) => {
    const column = columnNamed(table, colDef.colId);
    if (!data || !column || !(event instanceof MouseEvent) || event.shiftKey || api.getEditingCells().length) return;
    event.preventDefault();
    openCellMenu({ table, grid: api, panel, address }, data, column, event);
  },
  onCellDoubleClicked: ({ data, colDef, api }) => {
    const column = columnNamed(table, colDef.colId);
    if (data && column && !canEdit(table, data, column)) void editOrShow(table, api, panel, data, column);
  },
  onCellFocused: ({ api }) => {
    noteFocus(table, api);
    const { row, column } = focused(table, api);
    if (panel.isOpen && row && column) void panel.show(row, column);
  },
});

/** Mark the sort columns of the address in the headings. */
export function showSort(grid: GridApi<Row>, { sort }: RowsAddress): void {
  grid.applyColumnState({
    state: sort.map(({ column, descending }, sortIndex) => ({
      colId: column,
      sort: descending ? "desc" : "asc",
      sortIndex,
    })),
    defaultState: { sort: null },
  });
}

/** Fit the columns without a stored width to the rows. */
export function fitColumns(grid: GridApi<Row>, table: Table, panel: ValuePanel, rows: Row[]): void {
  const show = (row: Row, column: Parameters<ValuePanel["show"]>[1]): void => void panel.show(row, column);
  grid.setGridOption("columnDefs", columnDefinitions(table, readLayout(table), rows, show));
}

/** Reset the columns in the grid, and forget the stored layout. */
export function resetColumns(grid: GridApi<Row>, table: Table, panel: ValuePanel, rows: Row[]): void {
  forgetLayout(table);
  grid.setGridOption("columnDefs", []);
  fitColumns(grid, table, panel, rows);
  // Resetting the grid stored the new layout, through its events.
  forgetLayout(table);
}

/** Focus a cell of the new rows: in the column that the address names, or at the previous position. */
export function restoreFocus(grid: GridApi<Row>, table: Table, before: CellPosition | null, rowCount: number): void {
  const column =
    grid.getColumn(location.hash.slice(1)) ??
    before?.column ??
    grid.getAllDisplayedColumns().find((shown) => columnNamed(table, shown.getColId()));
  if (!column) return;
  grid.ensureColumnVisible(column);
  grid.setFocusedCell(Math.min(before?.rowIndex ?? 0, rowCount - 1), column);
}
