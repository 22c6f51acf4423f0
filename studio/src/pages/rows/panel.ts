// The panel next to the grid, which shows a value in full.

import { asRefused, type Column, type Table, type Whole } from "../../api.ts";
import { changeOf } from "../../changes/staged.ts";
import { button, copyText, h, number, plural, replace } from "../../dom.ts";
import { equalTo } from "../../filters/filter.ts";
import { wholeOf } from "../../json-tree.ts";
import { shownName } from "../../names.ts";
import { go } from "../../router.ts";
import { plain } from "../../text.ts";
import { byteLength } from "../../typed.ts";
import { oneLine } from "../../values.ts";
import type { RowsAddress } from "./address.ts";
import { linkOf, type Row, wholeShownValue } from "./cells.ts";

export class ValuePanel {
  readonly element = h("aside.panel", { "aria-label": "Value", hidden: true });
  private readonly table: Table;
  private readonly address: RowsAddress;

  constructor(table: Table, address: RowsAddress) {
    this.table = table;
    this.address = address;
  }

  get isOpen(): boolean {
    return !this.element.hidden;
  }

  close(): void {
    this.element.hidden = true;
  }

  async show(row: Row, column: Column): Promise<void> {
    this.element.hidden = false;
    const body = h("div.body", h("p.muted", "…"));
    const close = button("×", () => this.close(), { "aria-label": "Close value", class: "quiet" });
    replace(this.element, h("header", h("h2", column.name), h("span.muted", column.type), h("span.grow"), close), body);
    try {
      replace(body, this.describe(row, column, await wholeShownValue(this.table, row, column)));
    } catch (error) {
      replace(body, h("p.wrong", asRefused(error).problem.what));
    }
  }

  private describe(row: Row, column: Column, value: Whole | undefined): (HTMLElement | false | "" | undefined)[] {
    const change = changeOf(this.table.name, row.key);
    const why = change?.errors[column.name];
    return [
      why !== undefined && h("p.wrong", why),
      value === undefined ? oneLine(value) : wholeOf(value, column),
      typeof value === "string" && value !== "" && h("p.muted", sizeOf(value, column)),
      change &&
        column.name in change.was &&
        h("div", h("h3", "Original value"), wholeOf(change.was[column.name] ?? null, column)),
      this.actions(row, column, value),
    ];
  }

  private actions(row: Row, column: Column, value: Whole | undefined): HTMLElement {
    const text = plain(value);
    const link = linkOf(this.table, row, column);
    const target = column.references ? `Open ${shownName(column.references.table)} ${text}` : "Open the row";
    return h(
      "div.row",
      link && h("a.button", { href: link }, target),
      button("Copy", () => void copyText(text)),
      value !== undefined &&
        text.length < 500 &&
        button("Filter by this value", () => go(this.address.narrowed(equalTo(column, value)))),
    );
  }
}

const sizeOf = (value: string, { kind }: Column): string =>
  kind === "bytea" ? plural(byteLength(value.length), "byte") : `${number([...value].length)} characters`;
