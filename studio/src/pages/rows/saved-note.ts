// Where the new rows of a save are: focused on the page, or named in a note if its filter or order hides them.

import type { GridApi } from "ag-grid-community";
import { rowsPath, type Table } from "../../api.ts";
import { h, plural, replace } from "../../dom.ts";
import { keysAre } from "../../filters/filter.ts";
import { shownKey } from "../../names.ts";
import { columnNamed, type Row } from "./cells.ts";

export class SavedNote {
  readonly element = h("p.search-note", { role: "status", hidden: true });
  private readonly table: Table;

  constructor(table: Table) {
    this.table = table;
  }

  hide(): void {
    this.element.hidden = true;
  }

  /** Focus the first of the new rows that the page shows, and name the others. */
  show(keys: string[], grid: GridApi<Row>): void {
    const shown = keys.map((key) => grid.getRowNode(key)?.rowIndex).find((index) => typeof index === "number");
    const column = grid.getAllDisplayedColumns().find((known) => columnNamed(this.table, known.getColId()));
    if (typeof shown === "number" && column) {
      grid.ensureIndexVisible(shown);
      grid.setFocusedCell(shown, column);
    }
    const hidden = keys.filter((key) => !grid.getRowNode(key));
    const [first, another] = hidden;
    if (first === undefined) return;
    const columns = this.table.columns.filter(({ name }) => this.table.key.includes(name));
    columns.sort((one, other) => this.table.key.indexOf(one.name) - this.table.key.indexOf(other.name));
    const href = rowsPath(this.table.name, { all: [keysAre(columns, hidden)] });
    this.element.hidden = false;
    replace(
      this.element,
      another
        ? `${plural(hidden.length, "new row")} are not on this page: `
        : `The new row ${shownKey(first)} is not on this page: `,
      h("a", { href }, another ? "show them" : "show it"),
    );
  }
}
