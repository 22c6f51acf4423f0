// The mapping of an import: which column gets which values of the file, or one value in all rows.

import type { Table } from "../../../api.ts";
import { button, h, replace } from "../../../dom.ts";
import { type Assignment, assignments, leftOut, matched, type Sample } from "./plan.ts";

const SKIP = "";

export class Mapping {
  readonly element: HTMLElement;
  private readonly table: Table;
  private readonly sample: Sample;
  private readonly changed: () => void;
  private readonly selects: HTMLSelectElement[];
  private readonly constants = h("ul.constants");
  private readonly note = h("p.muted");
  private readonly existing: HTMLSelectElement;
  private readonly key: HTMLSelectElement;
  private readonly byKey: HTMLElement;

  constructor(table: Table, sample: Sample, changed: () => void) {
    this.table = table;
    this.sample = sample;
    this.changed = () => {
      this.drawNote();
      changed();
    };
    const found = matched(sample.names, table.columns);
    this.selects = sample.names.map((name, index) =>
      this.columnSelect(`Column for ${name}`, [[SKIP, "skip"]], found[index] ?? SKIP),
    );
    this.existing = h("select", { onchange: this.changed }, [
      h("option", { value: "refuse" }, "are refused"),
      h("option", { value: "skip" }, "stay as they are"),
      h("option", { value: "update" }, "are updated"),
    ]);
    const keys = sample.keys.map((key, index) => h("option", { value: index }, key.join(", ")));
    this.key = h("select", { onchange: this.changed }, keys);
    this.byKey = h("label", "by ", this.key);
    this.element = h(
      "div.mapping",
      h("div.scroll", { tabindex: 0, role: "region", "aria-label": "Columns" }, this.drawTable()),
      this.constants,
      h(
        "div.row",
        button("Add one value for all rows", () => this.addConstant()),
        keys.length > 0 && h("label", "Rows that exist ", this.existing),
        this.byKey,
      ),
      this.note,
    );
    this.drawNote();
  }

  /** The part of the plan that says where values go. */
  get plan(): object {
    const existing = this.existing.value;
    const key = existing === "refuse" ? [] : (this.sample.keys[Number(this.key.value)] ?? []);
    return { columns: [...assignments(this.sample, this.columns), ...this.constantValues], existing, key };
  }

  private get columns(): (string | null)[] {
    return this.selects.map(({ value }) => value || null);
  }

  private get constantValues(): Assignment[] {
    return [...this.constants.children].map((item) => ({
      column: item.querySelector("select")?.value ?? "",
      value: item.querySelector<HTMLInputElement>("input[type=checkbox]")?.checked
        ? null
        : (item.querySelector<HTMLInputElement>("input[type=text]")?.value ?? ""),
    }));
  }

  private columnSelect(label: string, first: [string, string][], value: string): HTMLSelectElement {
    const names = this.table.columns.map(({ name }): [string, string] => [name, name]);
    const options = [...first, ...names].map(([at, text]) => h("option", { value: at }, text));
    const field = h("select", { "aria-label": label, onchange: () => this.changed() }, options);
    field.value = value;
    return field;
  }

  private drawTable(): HTMLElement {
    const headings = ["In the file", "Column", "First values"].map((text) => h("th", { scope: "col" }, text));
    const rows = this.sample.names.map((name, index) => {
      const values = this.sample.rows.slice(0, 3).map((row) => row[index] ?? "");
      return h(
        "tr",
        h("th", { scope: "row" }, h("bdi", name)),
        h("td", this.selects[index]),
        h("td.muted", values.join(" · ")),
      );
    });
    return h("table.pasted", h("thead", h("tr", headings)), h("tbody", rows));
  }

  private addConstant(): void {
    const used = new Set([...this.columns, ...this.constantValues.map(({ column }) => column)]);
    const free = this.table.columns.find(({ name, primary }) => !primary && !used.has(name))?.name ?? "";
    const value = h("input", { type: "text", "aria-label": "Value for all rows", oninput: () => this.changed() });
    const isNull = h("input", { type: "checkbox", onchange: () => this.changed() });
    const column = this.columnSelect("Column", [], free);
    const remove = button(
      "×",
      () => {
        item.remove();
        this.changed();
      },
      { "aria-label": "Remove the value", class: "quiet" },
    );
    const item = h("li.row", column, " = ", value, h("label", isNull, " NULL"), remove);
    this.constants.append(item);
    this.changed();
    column.focus();
  }

  private drawNote(): void {
    this.byKey.hidden = this.existing.value === "refuse";
    const { names, required } = leftOut(this.sample.names, this.columns, this.constantValues, this.table.columns);
    replace(
      this.note,
      names.length > 0 && `Not imported: ${names.join(", ")}. `,
      required.length > 0 && h("span.wrong", `Without a value: ${required.join(", ")}.`),
    );
  }
}
