// What all editors that open over a cell share: the box, its foot with NULL, and how they are closed.

import type { ICellEditorComp, ICellEditorParams } from "ag-grid-community";
import type { Column, Whole } from "./api.ts";
import { button, h } from "./dom.ts";

/** Asks the editors of an element to close; `detail` collects whether they did. */
export type Finishing = CustomEvent<Promise<boolean>[]>;

export type Params = ICellEditorParams<unknown, Whole> & { column_: Column; table_: string };

/** An editor of the grid, over its cell. */
export abstract class Editor implements ICellEditorComp {
  protected params!: Params;
  protected original: Whole = null;
  protected column!: Column;
  /** The address of the table. */
  protected table = "";
  private nulled = false;
  protected readonly box = h("div.editor");
  protected abstract readonly field: HTMLElement;

  init(params: Params): void {
    this.params = params;
    this.column = params.column_;
    this.table = params.table_;
    this.original = params.value ?? null;
    this.build(params.eventKey && params.eventKey.length === 1 ? params.eventKey : null);
    this.box.style.minWidth = `${Math.max(params.eGridCell.offsetWidth, 260)}px`;
    // Ctrl+S stages the open editor's value before the review opens.
    this.box.addEventListener("finish", (event) => (event as Finishing).detail.push(this.finish()));
    // The grid focuses a cell that it has just drawn a moment later, when the first key may have opened its editor.
    this.box.addEventListener("focusout", ({ relatedTarget }) => {
      if (relatedTarget === params.eGridCell) queueMicrotask(() => this.box.isConnected && this.field.focus());
    });
    this.box.addEventListener("keydown", (event) => {
      if (event.key !== "Tab" || this.isReady()) return;
      event.preventDefault();
      event.stopPropagation();
      void this.finish().then((closed) => closed && params.api?.tabToNextCell());
    });
  }
  /** True if the editor can be closed at once with the value that it shows. */
  protected isReady(): boolean {
    return true;
  }
  /** Accept the value and close the editor. One without a value stays open, says why, and returns false. */
  async finish(): Promise<boolean> {
    if (this.isReady()) this.params.stopEditing();
    else this.field.focus();
    return this.isReady();
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
  /** True if the editor was closed by its button for NULL. */
  get isNulled(): boolean {
    return this.nulled;
  }
  /** The editor is closed. */
  destroy(): void {}
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
