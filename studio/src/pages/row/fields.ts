// The values of one row: drawn in full with their staged changes, and edited in place.

import { asRefused, type Cell, type Column, isCut, type Table, type Whole, wholeValue } from "../../api.ts";
import { type Change, changeOf, stage } from "../../changes/staged.ts";
import { announce, button, type Child, copyText, h, replace } from "../../dom.ts";
import { editorFor } from "../../editors.ts";
import { wholeOf } from "../../json-tree.ts";
import { writable } from "../../session.ts";
import { plain, SHOWN_LENGTH, same, shortType } from "../../text.ts";
import { guarded, oneLine } from "../../values.ts";

type Field = { column: Column; element: HTMLElement; state: string };

/** The values of a row as the database has them, each with the drawing of what it refers to. */
export type RowValues = { key: string; cells: Record<string, Cell>; links: Record<string, HTMLElement | undefined> };

export class RowFields {
  readonly element: HTMLElement;
  private readonly table: Table;
  private readonly row: RowValues;
  private readonly fields: Field[];

  constructor(table: Table, row: RowValues) {
    this.table = table;
    this.row = row;
    this.fields = table.columns.map((column) => ({ column, element: h("dd"), state: "" }));
    this.element = h(
      "dl.values",
      this.fields.map(({ column, element }) =>
        h("div", h("dt", h("span", column.name), h("span.type", describe(column))), element),
      ),
    );
    this.showChanges();
  }

  /** Draw the fields whose staged change is another one. The others keep their focus and an open editor. */
  showChanges(): void {
    const change = changeOf(this.table.name, this.row.key);
    for (const field of this.fields) {
      const { name } = field.column;
      const state = JSON.stringify([change?.op, change?.values[name], change?.errors[name]]);
      if (state === field.state) continue;
      field.state = state;
      this.draw(field, change);
    }
  }

  private draw(field: Field, change: Change | undefined): void {
    const { column, element } = field;
    const { name } = column;
    const cell = this.row.cells[name] ?? null;
    const isStaged = change?.op === "update" && name in change.values;
    const shown = isStaged ? (change.values[name] ?? null) : cell;
    const why = change?.errors[name];
    const link = isStaged ? undefined : this.row.links[name];
    element.classList.toggle("staged", isStaged);
    replace(element, [
      h("div.value", link ?? this.value(column, shown), why !== undefined && h("p.wrong", why)),
      this.tools(field, shown, change),
    ]);
  }

  private value(column: Column, cell: Cell): HTMLElement {
    if (!isCut(cell)) return guarded(() => (isLine(column, cell) ? oneLine(cell, column.kind) : wholeOf(cell, column)));
    const element = h("div");
    const showWhole = async (): Promise<void> => replace(element, wholeOf(await this.whole(column, cell), column));
    const line = oneLine({ ...cell, cut: cell.cut.slice(0, SHOWN_LENGTH) }, column.kind);
    replace(
      element,
      line,
      " ",
      button("Show full value", () => void showWhole()),
    );
    return element;
  }

  private tools(field: Field, shown: Cell, change: Change | undefined): Child {
    const { column } = field;
    const copy = async (): Promise<void> => copyText(plain(await this.whole(column, shown)));
    const mayEdit = writable() && this.table.may_update && column.editable && change?.op !== "delete";
    return [
      shown !== null &&
        shown !== "" &&
        button("Copy", () => void copy(), { class: "quiet copy", "aria-label": `Copy ${column.name}` }),
      mayEdit &&
        button("Edit", () => void this.edit(field), { class: "quiet edit", "aria-label": `Edit ${column.name}` }),
    ];
  }

  private readonly whole = (column: Column, cell: Cell): Promise<Whole> =>
    wholeValue(this.table.name, column.name, this.row.key, cell);

  private async edit(field: Field): Promise<void> {
    const { column, element } = field;
    const place = element.querySelector<HTMLElement>(".value");
    if (!place) return;
    try {
      const original = await this.whole(column, this.row.cells[column.name] ?? null);
      const change = changeOf(this.table.name, this.row.key);
      const shown = change && column.name in change.values ? (change.values[column.name] ?? null) : original;
      this.openEditor(field, place, original, shown);
    } catch (error) {
      announce(asRefused(error).problem.what);
    }
  }

  /** Open the editor that the grid has, with its keys: Enter accepts and Escape discards, as does leaving it accept. */
  private openEditor(field: Field, place: HTMLElement, original: Whole, shown: Whole): void {
    const { column } = field;
    let isOpen = true;
    const close = (accepted: boolean): void => {
      if (!isOpen) return;
      isOpen = false;
      const value = accepted ? editor.getValue() : shown;
      editor.destroy();
      const hadFocus = editor.getGui().contains(document.activeElement);
      if (same(value, shown)) this.draw(field, changeOf(this.table.name, this.row.key));
      else stage(this.table.name, this.row.key, column.name, original, value);
      if (hadFocus) field.element.querySelector<HTMLElement>("button.edit")?.focus();
    };
    const editor = editorFor(column, this.table.name, place, () => close(true), shown);
    const box = editor.getGui();
    box.addEventListener("keydown", (event) => {
      if (event.key === "Escape" || (event.key === "Enter" && !(event.target instanceof HTMLButtonElement))) {
        event.preventDefault();
        close(event.key === "Enter");
      }
    });
    box.addEventListener("focusout", ({ relatedTarget }) => {
      if (!box.contains(relatedTarget as Node | null)) close(true);
    });
    replace(place, box);
    editor.afterGuiAttached();
  }
}

const isLine = ({ kind }: Column, cell: Whole): boolean =>
  kind !== "json" &&
  typeof cell === "string" &&
  !cell.includes("\n") &&
  (cell.length < SHOWN_LENGTH || kind === "bytea");

const describe = ({ type, primary, nullable, editable }: Column): string =>
  [shortType(type), primary ? "primary key" : nullable ? "" : "not null", editable || !writable() ? "" : "not editable"]
    .filter(Boolean)
    .join(" · ");
