// The columns of the grid. This browser stores their order, widths and visibility.

import type { ColDef, GridApi, ICellRendererParams } from "ag-grid-community";
import type { Column, Table, Whole } from "../../api.ts";
import { changeOf } from "../../changes/staged.ts";
import { h, memory } from "../../dom.ts";
import { CellEditor } from "../../editors.ts";
import { fittingWidth, Heading } from "../../grid.ts";
import { isPageKey, keyName } from "../../keys.ts";
import { drawLabel, labels, referenceLabel } from "../../labels.ts";
import { shownName } from "../../names.ts";
import { shortType, textOf } from "../../text.ts";
import { guarded, oneLine } from "../../values.ts";
import { canEdit, columnNamed, linkOf, type Row, shownValue } from "./cells.ts";
import { put } from "./edits.ts";
import { isInRange } from "./selection.ts";

export type Layout = { colId: string; width?: number; hide?: boolean }[];
type Show = (row: Row, column: Column) => void;

const layoutName = (table: Table): string => `layout:${table.name}`;
export const readLayout = (table: Table): Layout => memory.get<Layout>(layoutName(table), []);
export const forgetLayout = (table: Table): void => memory.forget(layoutName(table));

/** Return the table's columns in their order in the grid, without the grid's own selection column. */
export const layoutOf = (table: Table, grid: GridApi<Row>): Layout =>
  grid
    .getColumnState()
    .filter((state) => columnNamed(table, state.colId))
    .map(({ colId, width, hide }) => ({ colId, ...(width ? { width } : {}), hide: !!hide }));

export const rememberLayout = (table: Table, grid: GridApi<Row>): void =>
  memory.set(layoutName(table), layoutOf(table, grid));

/** Define the columns in the order of a layout. A column without a stored width fits the sample. */
export function columnDefinitions(table: Table, layout: Layout, sample: Row[], show: Show): ColDef<Row>[] {
  const place = ({ name }: Column): number => {
    const index = layout.findIndex(({ colId }) => colId === name);
    return index < 0 ? layout.length : index;
  };
  return [...table.columns]
    .sort((one, other) => place(one) - place(other))
    .map((column) => {
      const { width, hide = false } = layout.find(({ colId }) => colId === column.name) ?? {};
      return {
        colId: column.name,
        headerName: column.name,
        width: width ?? sampleWidth(table, column, sample),
        hide,
        // On a phone the key would leave no room for the other columns.
        pinned: column.primary && innerWidth >= WIDE ? "left" : null,
        ...heading(column),
        ...reading(table, column, show),
        ...editing(table, column),
      };
    });
}

const WIDE = 700;

const sampleWidth = (table: Table, column: Column, sample: Row[]): number =>
  fittingWidth(
    column.primary || column.references ? `${column.name} ◆` : column.name,
    shortType(column.type),
    sample.map(({ cells: { [column.name]: cell } }) => {
      const label = labels.shown ? referenceLabel(table, column.name, cell) : null;
      return label === null ? textOf(cell) : `${textOf(cell)} · ${label}`;
    }),
  );

const heading = ({ type, primary, references, sortable }: Column): ColDef<Row> => ({
  sortable,
  // The server sorts. The grid only marks the sort columns.
  comparator: () => 0,
  headerComponentParams: {
    innerHeaderComponent: Heading,
    innerHeaderComponentParams: {
      type: shortType(type),
      mark: primary ? "key" : references && shownName(references.table),
    },
  },
});

const reading = (table: Table, column: Column, show: Show): ColDef<Row> => ({
  ...((column.kind === "integer" || column.kind === "number") && !column.references && !column.primary
    ? { type: "right" }
    : {}),
  valueGetter: ({ data }) => data && shownValue(table, data, column),
  // Otherwise the grid does not redraw a cell when its staged change is rejected or undone.
  equals: () => false,
  cellRenderer: ({ data }: ICellRendererParams<Row>) =>
    data ? guarded(() => drawCell(table, data, column, show)) : h("span"),
  cellClassRules: {
    staged: ({ data }) => !!data && column.name in (changeOf(table.name, data.key)?.values ?? {}),
    ranged: ({ api, rowIndex }) => isInRange(api, rowIndex, column.name),
    bad: ({ data }) => !!data && column.name in (changeOf(table.name, data.key)?.errors ?? {}),
  },
  suppressKeyboardEvent: ({ event, editing, data }) => {
    if (editing) return false;
    const name = keyName(event);
    // Otherwise the browser scrolls before the grid reports the key.
    if (name === " ") event.preventDefault();
    return isPageKey(name, !!data && canEdit(table, data, column));
  },
});

const editing = (table: Table, column: Column): ColDef<Row> => ({
  editable: ({ data }) => !!data && canEdit(table, data, column),
  cellEditor: CellEditor,
  cellEditorParams: { column_: column, table_: table.name },
  cellEditorPopup: true,
  valueSetter: ({ data, newValue }) => {
    if (data) put(table, data, column, newValue as Whole);
    return true;
  },
});

function drawCell(table: Table, row: Row, column: Column, show: Show): HTMLElement {
  const link = linkOf(table, row, column);
  const cell = shownValue(table, row, column);
  const line = oneLine(cell, column.kind);
  const label = labels.shown && drawLabel(referenceLabel(table, column.name, cell));
  line.querySelector(".more")?.addEventListener("click", () => show(row, column));
  const value = link ? h("a.follow", { href: link, tabindex: -1, title: "F4" }, line) : line;
  // The name is no part of the link, so that a click on it selects the cell.
  const shown = label ? h("span.named", value, label) : value;
  const why = changeOf(table.name, row.key)?.errors[column.name];
  return why ? h("span.refused", { title: why }, shown, h("span.sr", ` Rejected: ${why}`)) : shown;
}
