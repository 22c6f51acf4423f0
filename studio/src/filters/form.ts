// The form of one condition: a column, an operator that fits its type, and values.

import type { Table } from "../api.ts";
import { h, popover } from "../dom.ts";
import { operatorsOf } from "../session.ts";
import { type Condition, conditionOf, fieldsOf, valuesOf } from "./filter.ts";

/** Open the form below `anchor`, filled with the condition to change, or with a column for a new one. */
export function conditionForm(
  table: Table,
  anchor: HTMLElement,
  before: Condition | null,
  done: (condition: Condition) => void,
  columnName?: string,
): void {
  const column = h(
    "select",
    { "aria-label": "Column", onchange: () => drawOperators() },
    table.columns.map(({ name }) => h("option", { value: name }, name)),
  );
  const op = h("select", { "aria-label": "Operator", onchange: () => drawFields() });
  const fields = h("span.values");
  const drawOperators = (): void => {
    const chosen = table.columns.find(({ name }) => name === column.value);
    const kind = chosen?.kind ?? "text";
    const known = chosen ? operatorsOf(chosen) : [];
    op.replaceChildren(...known.map((name) => h("option", { value: name }, name)));
    if (before && known.includes(before.op)) op.value = before.op;
    else if (kind === "text" && known.includes("contains")) op.value = "contains";
    drawFields();
  };
  const drawFields = (): void =>
    fields.replaceChildren(...valueFields(op.value, before?.op === op.value ? fieldsOf(before) : []));
  const apply = (event: Event): void => {
    event.preventDefault();
    const filled = [...fields.querySelectorAll<HTMLInputElement | HTMLTextAreaElement>("input, textarea")];
    panel.hidePopover();
    done(
      conditionOf(
        column.value,
        op.value,
        filled.map(({ value }) => value),
      ),
    );
  };
  const first = before?.column ?? columnName;
  if (first !== undefined) column.value = first;
  drawOperators();
  const submit = h("button.primary", { type: "submit" }, "Apply");
  const panel = popover(anchor, "Filter", h("form.condition-form", { onsubmit: apply }, column, op, fields, submit));
  panel.addEventListener("keydown", (event) => {
    if (isApply(event)) apply(event);
  });
  if (first !== undefined) fields.querySelector<HTMLElement>("input, textarea")?.focus();
}

function valueFields(op: string, values: string[]): HTMLElement[] {
  const field = (label: string, value = ""): HTMLElement =>
    h("input", {
      type: "text",
      "aria-label": label,
      value,
      autocomplete: "off",
      spellcheck: "false",
      placeholder: label,
    });
  switch (valuesOf(op)) {
    case "none":
      return [];
    case "one":
      return [field("Value", values[0])];
    case "two":
      return [field("From", values[0]), field("To", values[1])];
    case "many": {
      const label = "Values, one per line";
      const area = h("textarea", { "aria-label": label, placeholder: label, rows: 4, spellcheck: "false" });
      area.value = values.join("\n");
      return [area];
    }
  }
}

/** True for Enter, except where it adds a line or presses a button, and for Ctrl+Enter. */
const isApply = ({ key, ctrlKey, target }: KeyboardEvent): boolean =>
  key === "Enter" && (ctrlKey || !(target instanceof HTMLTextAreaElement)) && !(target instanceof HTMLButtonElement);
