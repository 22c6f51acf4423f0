// The search box: what is typed goes into the address after a pause, and the page reads the rows again.

import type { Table } from "../../api.ts";
import { h, number } from "../../dom.ts";
import { go } from "../../router.ts";
import type { RowsAddress } from "./address.ts";
import type { Found } from "./reading.ts";

const PAUSE_MS = 250;
const MAX_CHARACTERS = 200;

export class SearchBox {
  readonly element: HTMLInputElement;
  readonly note = h("p.search-note", { role: "status", hidden: true });
  private readonly address: RowsAddress;
  private pause: ReturnType<typeof setTimeout> | undefined;
  private isContinued = false;

  constructor(table: Table, address: RowsAddress, leaveDown: () => void) {
    this.address = address;
    this.element = h("input.search", {
      type: "search",
      "aria-label": `Search ${table.name}`,
      "aria-keyshortcuts": "Control+F",
      placeholder: "Search",
      title: "Ctrl+F",
      autocomplete: "off",
      spellcheck: "false",
      maxlength: MAX_CHARACTERS,
    });
    this.element.addEventListener("input", () => {
      clearTimeout(this.pause);
      this.pause = setTimeout(() => this.apply(), PAUSE_MS);
    });
    // One visit of the box is one step of the history.
    this.element.addEventListener("blur", () => {
      this.isContinued = false;
    });
    this.element.addEventListener("keydown", (event) => {
      if (event.key === "Enter") this.apply();
      else if (event.key === "ArrowDown" || (event.key === "Escape" && this.element.value === "")) leaveDown();
      else if (event.key === "Escape") this.clear();
      else return;
      event.preventDefault();
    });
  }

  focus(): void {
    this.element.focus();
    this.element.select();
  }

  /** Show the search of the address, unless the user is typing another one. */
  update(): void {
    if (document.activeElement !== this.element) this.element.value = this.address.parameters.get("q") ?? "";
  }

  leave(): void {
    clearTimeout(this.pause);
  }

  show(found: Found | null): void {
    const note = found ? describe(found) : "";
    if (this.note.textContent !== note) this.note.textContent = note;
    this.note.hidden = note === "";
    this.element.title = found ? `Ctrl+F. Searches ${found.columns.join(", ") || "no column"}.` : "Ctrl+F";
  }

  private clear(): void {
    this.element.value = "";
    this.apply();
  }

  private apply(): void {
    clearTimeout(this.pause);
    const typed = this.element.value.trim();
    if (typed === (this.address.parameters.get("q") ?? "")) return;
    go(this.address.with({ q: typed || null }), { replace: this.isContinued });
    this.isContinued = true;
  }
}

/** Say what a user cannot see: that the search is slow, or that there are more matches. */
export function describe({ index, more, reads_all, columns }: Found): string {
  if (!columns.length) return "This table has no column to search.";
  if (more)
    return `More than ${number(1000)} rows match. These are the first that the index found: add a word, or sort by a column.`;
  if (!reads_all) return "";
  return index
    ? `The index ${index} does not serve words of less than three letters, so this search reads the whole table.`
    : "No index serves this search, so it reads the whole table.";
}
