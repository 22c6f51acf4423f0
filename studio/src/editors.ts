// The editors that open over a cell. They keep everything that the user does not touch, to the character.

import type { Column, Whole } from "./api.ts";
import { button, h, replace } from "./dom.ts";
import { Editor, type Params } from "./editor.ts";
import { ReferenceEditor } from "./picker.ts";
import { begins, restoreLineEnds } from "./text.ts";
import { chips, visible } from "./values.ts";

const HINTS: Record<string, string> = {
  timestamp: "2026-03-01 18:30:00.123456",
  integer: "Whole number",
};

/** Edits text, numbers and timestamps. */
export class TextEditor extends Editor {
  protected field!: HTMLTextAreaElement;
  private start = "";

  protected build(typed: string | null): void {
    const text = typeof this.original === "string" ? this.original : "";
    const { name, kind } = this.column;
    this.field = h("textarea", {
      "aria-label": name,
      spellcheck: "false",
      placeholder: this.original === null ? (HINTS[kind] ?? "NULL") : HINTS[kind],
      dir: "auto",
    });
    this.field.value = text;
    this.start = this.field.value;
    this.field.rows = Math.min(12, Math.max(kind === "text" ? 2 : 1, this.start.split("\n").length));
    if (typed !== null) this.field.value = typed;
    this.field.addEventListener("keydown", (event) => this.onKey(event));
    this.box.append(
      this.field,
      kind === "text"
        ? this.foot("Enter: accept", "Shift+Enter: new line", "Esc: discard")
        : this.foot("Enter: accept", "Esc: discard"),
    );
  }
  override afterGuiAttached(): void {
    super.afterGuiAttached();
    if (this.field.value === this.start) this.field.select();
  }
  private onKey(event: KeyboardEvent): void {
    // Otherwise the grid handles these keys itself.
    if (
      (event.key === "Enter" && event.shiftKey) ||
      event.key.startsWith("Arrow") ||
      event.key === "Home" ||
      event.key === "End" ||
      event.key.startsWith("Page")
    )
      event.stopPropagation();
  }
  protected value(): Whole {
    const text = this.field.value;
    if (text === this.start) return this.original;
    if (this.column.kind !== "text") return text.trim() === "" ? null : text.trim();
    return restoreLineEnds(typeof this.original === "string" ? this.original : "", text);
  }
}

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

/** Return the editor of a column. */
export const editorOf = ({ kind, references }: Column): (new () => TextEditor | ArrayEditor | ReferenceEditor) =>
  kind === "array" ? ArrayEditor : references ? ReferenceEditor : TextEditor;

/** Create the editor of a column outside a grid, with an empty text; `finish` is called when it is closed by a choice. */
export function editorFor(column: Column, place: HTMLElement, finish: () => void): Editor {
  const editor = new (editorOf(column))();
  const value = column.kind === "array" ? [] : "";
  editor.init({ value, eventKey: null, eGridCell: place, stopEditing: finish, column_: column } as unknown as Params);
  return editor;
}
