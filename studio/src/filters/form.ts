// The form of one condition: a column, an operator that fits its type, and values.

import type { Table } from "../api.ts";
import { announce, h, popover } from "../dom.ts";
import type { Editor } from "../editor.ts";
import { editorFor } from "../editors.ts";
import { operatorsOf } from "../session.ts";
import { type Condition, conditionOf, equalTo, fieldsOf, isEquality, unequalTo, valuesOf } from "./filter.ts";

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
  const fields = h("span.fields");
  let picker: Editor | null = null;
  const drawOperators = (): void => {
    const chosen = table.columns.find(({ name }) => name === column.value);
    const kind = chosen?.kind ?? "text";
    const known = chosen ? operatorsOf(chosen) : [];
    op.replaceChildren(...known.map((name) => h("option", { value: name }, name)));
    if (before && known.includes(before.op)) op.value = before.op;
    else if (kind === "text" && known.includes("contains")) op.value = "contains";
    drawFields();
  };
  const drawFields = (): void => {
    const values = before?.op === op.value ? fieldsOf(before) : [];
    const chosen = table.columns.find(({ name }) => name === column.value);
    picker?.destroy();
    // A reference is found by the name of its row, as in the editor of a cell.
    picker =
      chosen?.references && isEquality(op.value)
        ? editorFor(chosen, table.name, fields, () => pick(), values[0])
        : null;
    fields.replaceChildren(...(picker ? [picker.getGui()] : valueFields(op.value, values)));
  };
  const pick = (): void => {
    const chosen = table.columns.find(({ name }) => name === column.value);
    const value = picker?.getValue();
    if (!picker || !chosen || value === undefined) return;
    if (!value?.length && !picker.isNulled && chosen.kind !== "text") {
      announce(`Type a value for ${chosen.name}.`);
      return;
    }
    panel.hidePopover();
    done(op.value === "is" ? equalTo(chosen, value) : unequalTo(chosen, value));
  };
  const apply = (event: Event): void => {
    event.preventDefault();
    if (picker) {
      void picker.finish();
      return;
    }
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
  panel.addEventListener("toggle", () => panel.matches(":popover-open") || picker?.destroy());
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
