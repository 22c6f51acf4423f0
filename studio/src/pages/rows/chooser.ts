// The column chooser: which columns are shown, and in which order.

import type { GridApi } from "ag-grid-community";
import type { Table } from "../../api.ts";
import { button, h, popover, replace } from "../../dom.ts";
import type { Row } from "./cells.ts";
import { layoutOf, rememberLayout } from "./columns.ts";

/** Open the list of columns below `anchor`. `reset` restores the default layout. */
export function chooseColumns(anchor: HTMLElement, table: Table, grid: GridApi<Row>, reset: () => void): void {
  const list = h("ul.chooser");
  const draw = (): void =>
    replace(
      list,
      layoutOf(table, grid).map(({ colId, hide }) => item(colId, !hide)),
    );
  const item = (name: string, shown: boolean): HTMLElement => {
    const onchange = (event: Event): void => grid.setColumnsVisible([name], (event.target as HTMLInputElement).checked);
    return h(
      "li",
      { "data-column": name },
      h("label", h("input", { type: "checkbox", checked: shown, onchange }), name),
      h("span.grow"),
      button("↑", () => shift(name, -1), { class: "quiet up", "aria-label": `Move ${name} left` }),
      button("↓", () => shift(name, 1), { class: "quiet down", "aria-label": `Move ${name} right` }),
    );
  };
  const shift = (name: string, by: number): void => {
    if (!shiftColumn(table, grid, name, by)) return;
    draw();
    list.querySelector<HTMLElement>(`[data-column="${name}"] ${by < 0 ? ".up" : ".down"}`)?.focus();
  };
  const showAll = (shown: boolean): void => {
    const names = table.columns.map(({ name }) => name);
    grid.setColumnsVisible(shown ? names : names.filter((name) => !table.key.includes(name)), shown);
    draw();
  };
  draw();
  const all = button("All", () => showAll(true));
  const none = button("Primary key only", () => showAll(false));
  const first = button("Reset", () => {
    reset();
    draw();
  });
  popover(anchor, "Columns", h("div.row", all, none, first), list);
}

/** Move a column by one position. Returns false if it is already at the edge. */
function shiftColumn(table: Table, grid: GridApi<Row>, name: string, by: number): boolean {
  const names = layoutOf(table, grid).map(({ colId }) => colId);
  const from = names.indexOf(name);
  if (from + by < 0 || from + by >= names.length) return false;
  names.splice(from + by, 0, ...names.splice(from, 1));
  grid.applyColumnState({ state: names.map((colId) => ({ colId })), applyOrder: true });
  rememberLayout(table, grid);
  return true;
}
