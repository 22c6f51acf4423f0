// The editors that open over a cell. They keep everything that the user does not touch, to the character.

import type { ICellEditorComp } from "ag-grid-community";
import type { Column, Whole } from "./api.ts";
import { button, h, replace } from "./dom.ts";
import { Editor, type Params } from "./editor.ts";
import { ReferenceEditor } from "./picker.ts";
import { begins } from "./text.ts";
import { TextEditor } from "./text-editor.ts";
import { chips, visible } from "./values.ts";

/** Edits an array as chips. Enter adds an element; Backspace moves the last one back into the field. */
export class ArrayEditor extends Editor {
  protected field!: HTMLInputElement;
  private items: (string | null)[] = [];
  private touched = false;
  private readonly shown = h("div.chips", { role: "list", "aria-label": "Elements" });

  protected build(typed: string | null): void {
    this.items = Array.isArray(this.original) ? [...this.original] : [];
    this.field = h("input", {
      type: "text",
      "aria-label": `New element of ${this.column.name}`,
      placeholder: "New element",
      value: typed ?? "",
    });
    this.field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && this.field.value !== "") {
        this.add(this.field.value);
        this.field.value = "";
        event.stopPropagation();
      } else if (event.key === "Backspace" && this.field.value === "" && this.items.length) {
        this.field.value = this.items.at(-1) ?? "";
        this.remove(this.items.length - 1);
        event.preventDefault();
      }
      if (event.key.startsWith("Arrow") || event.key === "Home" || event.key === "End") event.stopPropagation();
    });
    this.box.append(this.shown, this.field, this.foot("Enter: add, then accept", "Backspace: edit the last element"));
    this.box.addEventListener("keydown", (event) => {
      // Enter on a button presses it; the editor stays open.
      if (event.key === "Enter" && event.target instanceof HTMLButtonElement) event.stopPropagation();
    });
    this.draw();
  }
  private add(value: string): void {
    this.items.push(value);
    this.touched = true;
    this.draw();
  }
  private remove(at: number): void {
    this.items.splice(at, 1);
    this.touched = true;
    this.draw();
    this.field.focus();
  }
  private draw(): void {
    replace(
      this.shown,
      this.items.map((item, at) =>
        h(
          "span.chip",
          { role: "listitem" },
          item === null ? "NULL" : item === "" ? chips([item]) : h("bdi", visible(begins(item, 80))),
          button("×", () => this.remove(at), { "aria-label": `Remove ${item ?? "NULL"}`, class: "quiet" }),
        ),
      ),
    );
  }
  protected value(): Whole {
    if (this.field.value !== "") this.add(this.field.value);
    return this.touched ? this.items : this.original;
  }
}

/** Edits an enum or a boolean as a list of its values. */
export class ChoiceEditor extends Editor {
  protected field!: HTMLSelectElement;

  protected build(): void {
    const { name, values, kind } = this.column;
    const choices = kind === "boolean" ? ["true", "false"] : (values ?? []);
    const options = choices.map((value) => h("option", { value }, value === "" ? "(empty text)" : value));
    this.field = h("select", { "aria-label": name, size: Math.min(10, Math.max(2, options.length)) }, options);
    // Nothing is chosen for NULL.
    this.field.selectedIndex = typeof this.original === "string" ? choices.indexOf(this.original) : -1;
    this.field.addEventListener("click", (event) => {
      if (event.target instanceof HTMLOptionElement) this.params.stopEditing();
    });
    this.field.addEventListener("keydown", (event) => {
      // Otherwise the grid handles these keys itself.
      if (/^(Arrow|Home|End|Page)/.test(event.key)) event.stopPropagation();
    });
    this.box.append(this.field, this.foot("Enter: accept", "Esc: discard"));
  }
  protected value(): Whole {
    return this.field.selectedIndex < 0 ? this.original : this.field.value;
  }
}

/** Return the editor for a value of a column. */
function editorOf({ kind, values, references }: Column, value: Whole): new () => Editor {
  if (kind === "boolean" || (kind === "enum" && values)) return ChoiceEditor;
  // An array of several dimensions, or one that does not start at 1, is edited as PostgreSQL writes it.
  if (kind === "array") return typeof value === "string" ? TextEditor : ArrayEditor;
  return references ? ReferenceEditor : TextEditor;
}

/** Opens over a cell of the grid the editor that its value needs. */
export class CellEditor implements ICellEditorComp {
  private editor!: Editor;

  init(params: Params): void {
    this.editor = new (editorOf(params.column_, params.value ?? null))();
    this.editor.init(params);
  }
  getGui(): HTMLElement {
    return this.editor.getGui();
  }
  getValue(): Whole {
    return this.editor.getValue();
  }
  isPopup(): boolean {
    return this.editor.isPopup();
  }
  getPopupPosition(): "over" {
    return this.editor.getPopupPosition();
  }
  afterGuiAttached(): void {
    this.editor.afterGuiAttached();
  }
  destroy(): void {
    this.editor.destroy();
  }
}

/** Create the editor of a column of a table outside a grid; `finish` is called when it is closed by a choice. */
export function editorFor(
  column: Column,
  table: string,
  place: HTMLElement,
  finish: () => void,
  value: Whole = column.kind === "array" ? [] : "",
): Editor {
  const editor = new (editorOf(column, value))();
  const own = { column_: column, table_: table };
  editor.init({ value, eventKey: null, eGridCell: place, stopEditing: finish, ...own } as unknown as Params);
  return editor;
}
