// The list below a field of an editor, from which the arrow keys or a click choose.

import { type Child, h, replace } from "./dom.ts";

/** The number of items that a list shows. */
export const SHOWN = 8;
let lists = 0;

export class ChoiceList {
  readonly element: HTMLUListElement;
  /** The index of the chosen item, or -1. */
  chosen = -1;
  private readonly id = `offers-${++lists}`;
  private readonly field: HTMLElement;
  private readonly take: (index: number) => void;

  /** `take` is called with the index of a clicked item. */
  constructor(field: HTMLElement, label: string, take: (index: number) => void) {
    this.field = field;
    this.take = take;
    this.element = h("ul.offers", { role: "listbox", id: this.id, "aria-label": label });
    field.setAttribute("aria-controls", this.id);
    field.setAttribute("aria-autocomplete", "list");
  }

  show(items: { key: string; content: Child }[]): void {
    replace(
      this.element,
      items.map(({ key, content }, index) => {
        const onmousedown = (event: Event): void => {
          event.preventDefault();
          this.take(index);
        };
        const id = `${this.id}-${index}`;
        return h("li", { role: "option", id, "aria-selected": "false", "data-key": key, onmousedown }, content);
      }),
    );
    this.choose(-1);
  }

  /** Choose the next item, or the previous one; before the first none is chosen. */
  move(step: number): void {
    this.choose(Math.max(-1, Math.min(this.chosen + step, this.element.children.length - 1)));
  }

  clear(): void {
    this.choose(-1);
  }

  private choose(index: number): void {
    this.chosen = index;
    [...this.element.children].forEach((item, at) => {
      item.setAttribute("aria-selected", String(at === index));
    });
    const active = this.element.children[index];
    this.field.setAttribute("aria-activedescendant", active?.id ?? "");
    active?.scrollIntoView({ block: "nearest" });
  }
}
