// The page of a table's rows, one page of rows at a time.

import type { GridApi } from "ag-grid-community";
import { asRefused, type Problem, type Table } from "../../api.ts";
import { undoLast } from "../../changes/review.ts";
import { changeOf, inserted, onChanges, takeSavedRows } from "../../changes/staged.ts";
import { h, replace } from "../../dom.ts";
import { rememberLabels } from "../../labels.ts";
import { shownName } from "../../names.ts";
import { note } from "../../notes.ts";
import type { Page } from "../../router.ts";
import { writable } from "../../session.ts";
import { sentence } from "../../text.ts";
import { RowsAddress } from "./address.ts";
import type { Row } from "./cells.ts";
import { deleteRows, fillDown, newRow } from "./edits.ts";
import { fitColumns, resetColumns, restoreFocus, rowsGrid, showSort } from "./grid.ts";
import { Paging } from "./paging.ts";
import { ValuePanel } from "./panel.ts";
import { paste } from "./paste.ts";
import { type Answer, readRows, rowsOf } from "./reading.ts";
import { SavedNote } from "./saved-note.ts";
import { clearRange, onMouseDown } from "./selection.ts";
import { Toolbar } from "./toolbar.ts";

export function rowsPage(table: Table, url: URL): Page {
  const view = new RowsView(table, new RowsAddress(table.name, url.searchParams));
  const { grid, toolbar, paging } = view;
  const stopListening = onChanges(() => view.showChanges());
  view.update(url);
  return {
    title: shownName(table.name),
    element: view.element,
    update: (next) => view.update(next),
    reload: (arrived) => void view.load(arrived),
    leave: () => {
      stopListening();
      view.leave();
    },
    keys: {
      ...paging.keys,
      "Alt+f": () => toolbar.addFilter(),
      "Ctrl+f": () => toolbar.search.focus(),
      Insert: () => newRow(table, grid),
      "Ctrl+Delete": () => deleteRows(table, grid),
      "Ctrl+Backspace": () => deleteRows(table, grid),
      "Ctrl+d": () => void fillDown(table, grid),
      ...(writable() ? { "Ctrl+z": undoLast } : {}),
    },
  };
}

/** The parts of the page and the rows that they show. */
class RowsView {
  readonly element: HTMLElement;
  readonly toolbar: Toolbar;
  readonly paging: Paging;
  readonly grid: GridApi<Row>;
  private readonly table: Table;
  private readonly address: RowsAddress;
  private readonly panel: ValuePanel;
  private readonly place = h("div.rows-grid");
  private readonly problem = h("p.wrong", { role: "alert", hidden: true });
  private readonly saved: SavedNote;
  private rows: Row[] = [];
  private readings = 0;
  private request = new AbortController();
  private deleted = "";
  /** The parameters of the address whose rows are shown. */
  private shown = "";

  constructor(table: Table, address: RowsAddress) {
    this.table = table;
    this.address = address;
    this.panel = new ValuePanel(table, address);
    this.grid = rowsGrid(this.place, table, address, this.panel);
    this.paging = new Paging(address);
    this.toolbar = new Toolbar(
      table,
      address,
      this.grid,
      () => void this.load(),
      () => this.resetColumns(),
    );
    this.saved = new SavedNote(table);
    this.place.addEventListener("mousedown", (event) => onMouseDown(this.grid, event), { capture: true });
    this.place.addEventListener("paste", (event) => paste(table, this.grid, event));
    const split = h("div.split", this.place, this.panel.element);
    this.element = h(
      "section.rows",
      this.toolbar.element,
      this.toolbar.search.note,
      this.saved.element,
      note(table),
      this.problem,
      split,
      this.paging.element,
    );
  }

  update(url: URL): void {
    this.address.parameters = url.searchParams;
    this.toolbar.drawFilters();
    this.toolbar.search.update();
    this.saved.hide();
    void this.load();
  }

  leave(): void {
    this.readings++; // A response that arrives later is ignored.
    this.request.abort();
    this.toolbar.search.leave();
    this.grid.destroy();
  }

  async load(arrived = (): void => {}): Promise<void> {
    const reading = ++this.readings;
    // The server cancels the statement of an earlier request.
    this.request.abort();
    this.request = new AbortController();
    // The grid's loading overlay takes the focus away, so only the first load shows it.
    this.place.classList.toggle("busy", this.rows.length > 0);
    try {
      const answer = await readRows(this.table, this.address, this.paging.size, this.request.signal);
      arrived();
      if (reading === this.readings) this.show(answer);
    } catch (error) {
      arrived();
      if (reading === this.readings) this.showProblem(asRefused(error).problem);
    }
  }

  private show(answer: Answer): void {
    const isFirst = this.rows.length === 0;
    clearRange(this.grid);
    this.problem.hidden = true;
    this.place.hidden = false;
    this.shown = this.address.parameters.toString();
    rememberLabels(answer.names);
    this.rows = rowsOf(answer);
    if (isFirst) fitColumns(this.grid, this.table, this.panel, this.rows);
    showSort(this.grid, this.address);
    const active = document.activeElement;
    const isWalking = active === document.body || active?.id === "main" || !!active?.closest(".ag-cell");
    const focus = this.grid.getFocusedCell();
    this.drawRows();
    this.showIdle();
    if (this.rows.length) {
      // The focus stays in the grid, so that the keyboard still works on the new rows.
      if (isWalking) restoreFocus(this.grid, this.table, focus, this.rows.length);
      this.grid.ensureIndexVisible(isWalking ? (focus?.rowIndex ?? 0) : 0);
    }
    this.saved.show(takeSavedRows(this.table.name), this.grid);
    this.toolbar.showEstimate(answer);
    this.toolbar.search.show(answer.search);
    this.paging.show(answer);
  }

  private showProblem({ what, means, fix }: Problem): void {
    this.showIdle();
    // Rows of another filter would look like those of this one.
    this.place.hidden = this.rows.length > 0 && this.shown !== this.address.parameters.toString();
    this.problem.hidden = false;
    replace(this.problem, h("strong", sentence(what)), " ", means ?? "", " ", sentence(fix));
  }

  private showIdle(): void {
    this.grid.setGridOption("loading", false);
    this.place.classList.remove("busy");
  }

  private resetColumns(): void {
    resetColumns(this.grid, this.table, this.panel, this.rows);
    showSort(this.grid, this.address);
  }

  private drawRows(): void {
    const fresh = inserted(this.table.name).map((change): Row => ({ key: change.key, cells: {}, isNew: true }));
    this.grid.setGridOption("rowData", [...fresh, ...this.rows]);
    this.refresh();
  }

  /** Show the staged changes after one was added or undone. */
  showChanges(): void {
    const isSameRows = inserted(this.table.name).length === this.grid.getDisplayedRowCount() - this.rows.length;
    if (isSameRows) this.refresh();
    else this.drawRows();
  }

  private refresh(): void {
    this.grid.refreshCells({ force: true });
    // Redrawing rows takes the focus away, so they are redrawn only if a deletion was staged or undone.
    const deleted = this.rows
      .map(({ key }) => key)
      .filter((key) => changeOf(this.table.name, key)?.op === "delete")
      .join();
    if (deleted !== this.deleted) this.grid.redrawRows();
    this.deleted = deleted;
  }
}
