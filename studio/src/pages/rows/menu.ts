// The menu of a cell: filters by its value, copies of its row or of the ticked rows, and where it leads.

import type { GridApi } from "ag-grid-community";
import { type Column, isCut, rowPath, type Table, type Whole } from "../../api.ts";
import { type Choice, contextMenu } from "../../context-menu.ts";
import { copyText, plural } from "../../dom.ts";
import { equalTo, unequalTo } from "../../filters/filter.ts";
import { shownName } from "../../names.ts";
import { go } from "../../router.ts";
import { operatorsOf, writable } from "../../session.ts";
import { plain } from "../../text.ts";
import { csvLines, insertStatement, jsonLines, jsonObject, tabSeparated, type Values } from "../../written.ts";
import type { RowsAddress } from "./address.ts";
import { columnNamed, isDeleted, linkOf, mayEdit, type Row, shownValue, wholeShownValue } from "./cells.ts";
import { rememberCopied } from "./copied.ts";
import { setNull } from "./edits.ts";
import type { ValuePanel } from "./panel.ts";

export type CellPlace = { table: Table; grid: GridApi<Row>; panel: ValuePanel; address: RowsAddress };

/** A longer value does not fit into the address of a filter. */
const LONGEST_FILTER = 500;

export function openCellMenu(place: CellPlace, row: Row, column: Column, at: { x: number; y: number }): void {
  const { table, grid, panel } = place;
  const rowIndex = grid.getRowNode(row.key)?.rowIndex ?? 0;
  grid.setFocusedCell(rowIndex, column.name);
  const canBeNull =
    writable() &&
    column.nullable &&
    mayEdit(table, row, column) &&
    !isDeleted(table, row) &&
    shownValue(table, row, column) !== null;
  const groups: Choice[][] = [
    filters(place, row, column),
    copies(place, row, column),
    [["Show value", () => void panel.show(row, column), "Space"], ...links(table, row, column)],
    canBeNull ? [["Set NULL", () => void setNull(table, row, column), "Del"]] : [],
  ];
  contextMenu(`${column.name} of ${shownName(table.name)}`, at, groups, () =>
    grid.setFocusedCell(rowIndex, column.name),
  );
}

/** Open the menu below the focused cell. */
export function openMenuBelow(place: CellPlace, row: Row, column: Column, cell: Element): void {
  const { left, bottom } = cell.getBoundingClientRect();
  openCellMenu(place, row, column, { x: left + 8, y: bottom });
}

function filters({ table, address }: CellPlace, row: Row, column: Column): Choice[] {
  const value = shownValue(table, row, column);
  const operators = operatorsOf(column);
  const found: Choice[] = [];
  const offer = (label: string, condition: ReturnType<typeof equalTo>): void => {
    if (operators.includes(condition.op)) found.push([label, () => go(address.narrowed(condition))]);
  };
  if (value !== undefined && value !== null && !isCut(value) && plain(value).length < LONGEST_FILTER) {
    offer("Filter by this value", equalTo(column, value));
    offer("Exclude this value", unequalTo(column, value));
  }
  if (column.nullable) {
    offer("Filter by NULL", equalTo(column, null));
    offer("Exclude NULL", unequalTo(column, null));
  }
  return found;
}

function links(table: Table, row: Row, column: Column): Choice[] {
  const found: Choice[] = [];
  const link = linkOf(table, row, column);
  if (column.references && link) {
    const key = plain(shownValue(table, row, column) as Whole);
    found.push([`Open ${shownName(column.references.table)} ${key.slice(0, 30)}`, () => go(link), "F4"]);
  }
  if (!row.isNew && table.key.length) found.push(["Open the row", () => go(rowPath(table.name, row.key))]);
  return found;
}

function copies({ table, grid }: CellPlace, row: Row, column: Column): Choice[] {
  const ticked = grid.getSelectedRows();
  // A ticked row stands for all of them.
  const rows = ticked.some(({ key }) => key === row.key) ? ticked : [row];
  const name = rows.length > 1 ? plural(rows.length, "row") : "row";
  const shown = grid.getAllDisplayedColumns().flatMap((column) => columnNamed(table, column.getColId()) ?? []);
  const copy = (columns: Column[], write: (values: Values[]) => string) => (): void => {
    void Promise.all(rows.map((one) => wholeValues(table, one, columns))).then((values) => copyText(write(values)));
  };
  const json = (values: Values[]): string =>
    values.length > 1
      ? [...jsonLines(shown, values, true)].join("")
      : values.map((one) => jsonObject(shown, one)).join("");
  return [
    [
      "Copy value",
      () => void wholeShownValue(table, row, column).then((value) => copyText(rememberCopied(plain(value)))),
      "Ctrl C",
    ],
    [`Copy ${name} as TSV`, copy(shown, tabSeparated)],
    [`Copy ${name} as CSV`, copy(shown, (values) => [...csvLines(shown, values)].join(""))],
    [`Copy ${name} as JSON`, copy(shown, json)],
    [`Copy ${name} as INSERT`, copy(table.columns, (values) => insertStatement(placeOf(table), table.columns, values))],
  ];
}

const placeOf = ({ schema, title }: Table): string[] => (schema === "public" ? [title] : [schema, title]);

const wholeValues = (table: Table, row: Row, columns: Column[]): Promise<Values> =>
  Promise.all(columns.map((column) => wholeShownValue(table, row, column)));
