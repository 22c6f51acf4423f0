// The bar below the rows: buttons for paging, the page size, and the time that the last read took.

import { button, h, memory, plural } from "../../dom.ts";
import type { Shortcuts } from "../../help.ts";
import { go } from "../../router.ts";
import type { RowsAddress } from "./address.ts";
import type { Answer } from "./reading.ts";

/** From this number of rows on, a late page of a table without a key takes a moment. */
const MANY_ROWS = 1_000_000;
const COUNTED = "Without a key, a late page reads all rows before it; a filter is faster.";
const SIZES = ["50", "100", "200", "500"];

export class Paging {
  readonly element: HTMLElement;
  private next: string | null = null;
  private previous: string | null = null;
  private readonly toFirst: HTMLButtonElement;
  private readonly toPrevious: HTMLButtonElement;
  private readonly toNext: HTMLButtonElement;
  private readonly toLast: HTMLButtonElement;
  private readonly sizes: HTMLSelectElement;
  private readonly mark = h("span.muted.ms");

  constructor(address: RowsAddress) {
    this.toFirst = button("⇤ First", () => go(address.with({})), { title: "Alt+Home" });
    this.toPrevious = button("← Previous", () => go(address.with({ before: this.previous })), { title: "Alt+PageUp" });
    this.toNext = button("Next →", () => go(address.with({ after: this.next })), { title: "Alt+PageDown" });
    this.toLast = button("Last ⇥", () => go(address.with({ last: "1" })), { title: "Alt+End" });
    const onchange = (): void => {
      memory.set("rows", this.sizes.value);
      go(address.with({}));
    };
    const options = SIZES.map((value) => h("option", { value }, value));
    this.sizes = h("select", { "aria-label": "Rows per page", onchange }, options);
    this.sizes.value = memory.get("rows", "100");
    const buttons = [this.toFirst, this.toPrevious, this.toNext, this.toLast];
    this.element = h("div.foot", { role: "group", "aria-label": "Paging" }, [
      buttons,
      this.sizes,
      h("span.muted", "rows per page"),
      h("span.grow"),
      this.mark,
    ]);
  }

  get size(): string {
    return this.sizes.value;
  }

  get keys(): Shortcuts {
    return {
      "Alt+Home": () => this.toFirst.click(),
      "Alt+PageUp": () => this.toPrevious.click(),
      "Alt+PageDown": () => this.toNext.click(),
      "Alt+End": () => this.toLast.click(),
    };
  }

  show({ rows, ms, next, previous, keys, estimated }: Answer): void {
    this.next = next;
    this.previous = previous;
    const isCounted = rows.length > 0 && !keys.length && (estimated ?? 0) >= MANY_ROWS;
    const time = `${plural(rows.length, "row")} in ${ms.toFixed(ms < 10 ? 1 : 0)} ms`;
    this.mark.textContent = isCounted ? `${COUNTED} ${time}` : time;
    this.toFirst.disabled = this.toPrevious.disabled = !previous;
    this.toNext.disabled = this.toLast.disabled = !next;
  }
}
