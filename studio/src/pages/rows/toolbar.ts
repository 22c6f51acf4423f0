// The bar above the rows: their number, the filters, and the tools.

import type { GridApi } from "ag-grid-community";
import { asRefused, countRows, type Table } from "../../api.ts";
import { announce, button, h, plural, replace } from "../../dom.ts";
import { type ExportOptions, exportDialog } from "../../export-form.ts";
import { filterBar } from "../../filters/bar.ts";
import { conditionForm } from "../../filters/form.ts";
import { labels } from "../../labels.ts";
import { shownName } from "../../names.ts";
import { go } from "../../router.ts";
import { writable } from "../../session.ts";
import type { RowsAddress } from "./address.ts";
import { columnNamed, type Row } from "./cells.ts";
import { chooseColumns } from "./chooser.ts";
import { deleteRows, focused, newRow } from "./edits.ts";
import { importRows } from "./import/dialog.ts";
import { type Answer, exportPath } from "./reading.ts";
import { showViews } from "./saved.ts";
import { SearchBox } from "./search.ts";
import { setColumn } from "./set-column.ts";

export class Toolbar {
  readonly element: HTMLElement;
  private readonly table: Table;
  private readonly address: RowsAddress;
  private readonly grid: GridApi<Row>;
  private readonly count: HTMLButtonElement;
  private readonly filters = h("div.filter-bar");
  readonly search: SearchBox;

  constructor(table: Table, address: RowsAddress, grid: GridApi<Row>, load: () => void, reset: () => void) {
    this.table = table;
    this.address = address;
    this.grid = grid;
    this.count = button("", () => void this.countExactly(), { class: "quiet count", title: "Count exactly" });
    this.search = new SearchBox(table, address, () => focusFirst(table, grid));
    const viewer = button("Saved", () => showViews(viewer, table, grid, address), { "aria-haspopup": "dialog" });
    const chooser = button("Columns", () => chooseColumns(chooser, table, grid, reset), { "aria-haspopup": "dialog" });
    const tools = [
      writable() ? this.editTools() : [],
      table.columns.some(({ references }) => references) && namesSwitch(load),
      viewer,
      chooser,
      this.exporter(),
      button("⟳", load, { "aria-label": "Reload", title: "Reload", class: "quiet" }),
    ];
    this.element = h(
      "div.toolbar",
      h("h1", shownName(table.name)),
      this.count,
      this.search.element,
      this.filters,
      h("div.tools", tools),
    );
  }

  drawFilters(): void {
    // Otherwise the estimate of rows that arrive later would replace an exact number.
    this.count.disabled = true;
    const changed = (filter: Parameters<RowsAddress["filtered"]>[0]): void => {
      go(this.address.filtered(filter));
      this.filters.querySelector<HTMLElement>("button.add")?.focus();
    };
    replace(this.filters, filterBar(this.table, this.address.filter, changed));
  }

  /** Open the form of a new condition, on the column of the focused cell. */
  addFilter(): void {
    const anchor = this.filters.querySelector<HTMLElement>("button.add");
    const { column } = focused(this.table, this.grid);
    if (anchor)
      conditionForm(this.table, anchor, null, (condition) => go(this.address.narrowed(condition)), column?.name);
  }

  /** Show the estimated number of rows, or the exact one of a search. A filter has no estimate. */
  showEstimate({ estimated, search, rows, next, previous }: Answer): void {
    this.count.disabled = false;
    if (search) {
      const found = search.rows ?? (next || previous || search.more ? null : rows.length);
      this.count.textContent =
        found !== null ? plural(found, "row") : search.more ? "more than 1,000 rows" : "count rows";
      return;
    }
    const isUnknown = estimated === null || this.address.parameters.get("filter");
    this.count.textContent = isUnknown ? "count rows" : `about ${plural(estimated, "row")}`;
  }

  private async countExactly(): Promise<void> {
    this.count.textContent = "counting…";
    try {
      const rows = await countRows(
        this.table.name,
        this.address.parameters.get("filter"),
        this.address.parameters.get("q"),
      );
      this.count.textContent = plural(rows, "row");
    } catch (error) {
      this.count.textContent = "count failed";
      announce(asRefused(error).problem.what);
    }
  }

  private editTools(): HTMLElement[] {
    const setter = button("Set column…", () => setColumn(setter, this.table, this.grid), {
      "aria-haspopup": "dialog",
      title: "Set a column in all ticked rows",
    });
    return [
      button("Import", () => importRows(this.table), { "aria-haspopup": "dialog" }),
      setter,
      button("New row", () => newRow(this.table, this.grid), { title: "Insert" }),
      button("Delete", () => deleteRows(this.table, this.grid), {
        title: "Ctrl+Delete",
        "aria-label": "Delete selected rows",
      }),
    ];
  }

  private exporter(): HTMLElement {
    const about = `All rows of ${shownName(this.table.name)} that the filter selects, with the columns and the order of this page.`;
    const hasReferences = this.table.columns.some(({ references }) => references);
    const show = (): void => exportDialog([about], [["Download", (options) => this.download(options)]], hasReferences);
    return button("Export", show, { "aria-haspopup": "dialog" });
  }

  private download(options: ExportOptions): void {
    const columns = this.grid
      .getAllDisplayedColumns()
      .map((column) => column.getColId())
      .filter((name) => columnNamed(this.table, name));
    h("a", { href: exportPath(this.table, this.address, columns, options), download: "" }).click();
    announce("Exporting all rows of this filter.");
  }
}

/** The button that shows or hides the names beside keys. */
function namesSwitch(load: () => void): HTMLElement {
  const element = button(
    "Names",
    () => {
      labels.shown = !labels.shown;
      element.setAttribute("aria-pressed", String(labels.shown));
      load();
    },
    { "aria-pressed": String(labels.shown), title: "Show the names of rows beside their keys" },
  );
  return element;
}

function focusFirst(table: Table, grid: GridApi<Row>): void {
  const column = grid.getAllDisplayedColumns().find((shown) => columnNamed(table, shown.getColId()));
  if (column && grid.getDisplayedRowCount()) grid.setFocusedCell(0, column);
}
