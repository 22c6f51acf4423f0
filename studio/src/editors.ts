// The editors that open over a cell. They keep everything that the user does not touch, to the character.

import type { ICellEditorComp, ICellEditorParams } from "ag-grid-community";
import { type Column, get, type Whole } from "./api.ts";
import { button, h, replace } from "./dom.ts";
import { begins, restoreLineEnds } from "./text.ts";
import { chips, visible } from "./values.ts";

type Params = ICellEditorParams<unknown, Whole> & { column_: Column };

const HINTS: Record<string, string> = {
  timestamp: "2026-03-01 18:30:00.123456",
  integer: "Whole number",
};

abstract class Editor implements ICellEditorComp {
  protected params!: Params;
  protected original: Whole = null;
  protected column!: Column;
  private nulled = false;
  protected readonly box = h("div.editor");
  protected abstract readonly field: HTMLElement;

  init(params: Params): void {
    this.params = params;
    this.column = params.column_;
    this.original = params.value ?? null;
    this.build(params.eventKey && params.eventKey.length === 1 ? params.eventKey : null);
    this.box.style.minWidth = `${Math.max(params.eGridCell.offsetWidth, 260)}px`;
    // Ctrl+S stages the open editor's value before the review opens.
    this.box.addEventListener("finish", () => params.stopEditing());
  }
  protected abstract build(typed: string | null): void;
  protected abstract value(): Whole;
  protected foot(...hints: string[]): HTMLElement {
    return h(
      "div.foot",
      hints.map((hint) => h("span", hint)),
      h("span.grow"),
      this.column.nullable &&
        button(
          "NULL",
          () => {
            this.nulled = true;
            this.params.stopEditing();
          },
          { tabindex: -1 },
        ),
    );
  }
  getGui(): HTMLElement {
    return this.box;
  }
  isPopup(): boolean {
    return true;
  }
  getPopupPosition(): "over" {
    return "over";
  }
  getValue(): Whole {
    return this.nulled ? null : this.value();
  }
  afterGuiAttached(): void {
    this.box.closest("[role=dialog]")?.setAttribute("aria-label", `Edit ${this.column.name}`);
    this.field.focus();
  }
}

/** Edits text, numbers, timestamps, and foreign keys, for which it lists matching rows. */
export class TextEditor extends Editor {
  protected field!: HTMLTextAreaElement;
  private start = "";
  private readonly list = h("ul.offers", { role: "listbox", "aria-label": "Matching rows" });
  private chosen = -1;

  protected build(typed: string | null): void {
    const text = typeof this.original === "string" ? this.original : "";
    const { name, kind, references } = this.column;
    this.field = h("textarea", {
      "aria-label": name,
      spellcheck: "false",
      placeholder: this.original === null ? (HINTS[kind] ?? "NULL") : HINTS[kind],
      dir: "auto",
    });
    this.field.value = text;
    this.start = this.field.value;
    this.field.rows = Math.min(12, Math.max(kind === "text" && !references ? 2 : 1, this.start.split("\n").length));
    if (typed !== null) this.field.value = typed;
    this.field.addEventListener("keydown", (event) => this.onKey(event));
    this.field.addEventListener("input", () => {
      this.chosen = -1;
      void this.offer();
    });
    this.box.append(this.field);
    if (references) this.box.append(this.list);
    this.box.append(
      kind === "text"
        ? this.foot("Enter: accept", "Shift+Enter: new line", "Esc: discard")
        : this.foot("Enter: accept", "Esc: discard"),
    );
    if (references) void this.offer();
  }
  override afterGuiAttached(): void {
    super.afterGuiAttached();
    if (this.field.value === this.start) this.field.select();
  }
  private onKey(event: KeyboardEvent): void {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && this.list.children.length) {
      this.chosen = Math.max(-1, Math.min(this.chosen + step, this.list.children.length - 1));
      [...this.list.children].forEach((item, at) => {
        item.setAttribute("aria-selected", String(at === this.chosen));
      });
      const key = (this.list.children[this.chosen] as HTMLElement | undefined)?.dataset.key;
      if (key !== undefined) this.field.value = key;
      event.preventDefault();
    }
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
  private async offer(): Promise<void> {
    const { references } = this.column;
    if (!references) return;
    const q = this.field.value;
    const asked = { table: references.table, q: q === this.start ? "" : q };
    const rows = await get<{ key: string; label: string | null }[]>("/api/find", asked).catch(() => []);
    if (this.field.value !== q) return;
    replace(
      this.list,
      rows.slice(0, 8).map(({ key, label }) =>
        h(
          "li",
          {
            role: "option",
            "aria-selected": "false",
            "data-key": key,
            onmousedown: (event: Event) => {
              event.preventDefault();
              this.field.value = key;
              this.params.stopEditing();
            },
          },
          h("span", key),
          label !== null && h("span.muted", visible(label)),
        ),
      ),
    );
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

/** Create the editor of a column outside a grid, with an empty text; `finish` is called when it is closed by a choice. */
export function editorFor(column: Column, place: HTMLElement, finish: () => void): TextEditor | ArrayEditor {
  const editor = column.kind === "array" ? new ArrayEditor() : new TextEditor();
  const value = column.kind === "array" ? [] : "";
  editor.init({ value, eventKey: null, eGridCell: place, stopEditing: finish, column_: column } as unknown as Params);
  return editor;
}
