// Saved views of a table: its filter, search, sort order and columns under a name, in this browser.

import type { GridApi } from "ag-grid-community";
import type { Table } from "../../api.ts";
import { announce, button, h, memory, popover, replace } from "../../dom.ts";
import { go } from "../../router.ts";
import type { RowsAddress } from "./address.ts";
import type { Row } from "./cells.ts";
import { type Layout, layoutOf, rememberLayout } from "./columns.ts";

type View = { name: string; parameters: Record<string, string>; layout: Layout };

const PARAMETERS = ["q", "filter", "sort"];
const memoryName = (table: Table): string => `views:${table.name}`;
const read = (table: Table): View[] => memory.get<View[]>(memoryName(table), []);

/** Open the list of saved views below `anchor`, with a form that saves the current one. */
export function showViews(anchor: HTMLElement, table: Table, grid: GridApi<Row>, address: RowsAddress): void {
  const list = h("ul.plain.views");
  const draw = (): void => replace(list, read(table).map(item), !read(table).length && h("li.muted", "None yet"));
  const item = (view: View): HTMLElement =>
    h(
      "li.row",
      button(view.name, () => show(view), { class: "quiet" }),
      h("span.grow"),
      button("×", () => remove(view), { class: "quiet", "aria-label": `Remove ${view.name}` }),
    );
  const show = (view: View): void => {
    panel.hidePopover();
    grid.applyColumnState({ state: view.layout, applyOrder: true });
    rememberLayout(table, grid);
    go(address.with(Object.fromEntries(PARAMETERS.map((name) => [name, view.parameters[name] ?? null]))));
  };
  const remove = (view: View): void => {
    memory.set(
      memoryName(table),
      read(table).filter(({ name }) => name !== view.name),
    );
    draw();
    field.focus();
  };
  const field = h("input", { type: "text", "aria-label": "Name", placeholder: "Name", maxlength: 80, required: true });
  const save = (event: Event): void => {
    event.preventDefault();
    const name = field.value.trim();
    if (!name) return;
    const parameters = Object.fromEntries([...address.parameters].filter(([known]) => PARAMETERS.includes(known)));
    const others = read(table).filter((view) => view.name !== name);
    const views = [...others, { name, parameters, layout: layoutOf(table, grid) }];
    memory.set(
      memoryName(table),
      views.sort((one, other) => one.name.localeCompare(other.name)),
    );
    panel.hidePopover();
    announce(`Saved the filter, search, sort order and columns as ${name}.`);
  };
  const submit = h("button.primary", { type: "submit" }, "Save");
  draw();
  const panel = popover(anchor, "Saved views", list, h("form.row", { onsubmit: save }, field, submit));
}
