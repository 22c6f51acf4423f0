// Filter chips: conditions joined by AND or OR, in groups where both are needed; the address of the page holds them.

import type { Column, Table } from "./api.ts";
import { button, h, menu, popover } from "./dom.ts";
import { session } from "./session.ts";

export type Condition = { column: string; op: string; value?: string | string[] };
export type Group = { all: Filter[] } | { any: Filter[] };
export type Filter = Condition | Group;

const isGroup = (filter: Filter): filter is Group => "all" in filter || "any" in filter;
const partsOf = (group: Group): Filter[] => ("all" in group ? group.all : group.any);
const wordOf = (group: Group): string => ("all" in group ? "and" : "or");
const groupOf = (word: string, parts: Filter[]): Group => (word === "and" ? { all: parts } : { any: parts });

const WITHOUT_VALUE = new Set(["null", "not null", "empty"]);
const MANY = new Set(["in", "has any"]);

export function readFilter(text: string | null): Group {
  try {
    const filter: Filter = JSON.parse(text ?? "null") ?? { all: [] };
    return isGroup(filter) ? filter : { all: [filter] };
  } catch {
    return { all: [] };
  }
}

export const writeFilter = (group: Group): string | null => (partsOf(group).length ? JSON.stringify(group) : null);

/** Add a condition that must hold as well. */
export const narrowed = (group: Group, condition: Condition): Group =>
  "all" in group
    ? { all: [...group.all, condition] }
    : partsOf(group).length
      ? { all: [group, condition] }
      : { all: [condition] };

const inWords = ({ op, value }: Condition): string => {
  if (WITHOUT_VALUE.has(op)) return `is ${op}`.replace("is null", "is NULL").replace("is not null", "is not NULL");
  if (op === "between" && Array.isArray(value)) return `is between ${value[0]} and ${value[1]}`;
  return `${op} ${Array.isArray(value) ? value.join(", ") : value === "" ? "(empty text)" : value}`;
};

/** Draw the chips of a filter; `changed` gets the new filter after each change. */
export function filterBar(table: Table, filter: Group, changed: (filter: Group) => void): HTMLElement {
  const draw = (group: Group, put: (group: Group | null) => void, depth: number): HTMLElement => {
    const parts = partsOf(group);
    const word = wordOf(group);
    const without = (at: number): void =>
      put(
        parts.length === 1 && depth
          ? null
          : groupOf(
              word,
              parts.filter((_, other) => other !== at),
            ),
      );
    const changedAt = (at: number, part: Filter): void =>
      put(
        groupOf(
          word,
          parts.map((other, place) => (place === at ? part : other)),
        ),
      );
    const element = h("span", {
      class: depth ? "group" : "filters",
      role: "group",
      "aria-label": depth ? "Group of filters" : "Filters",
    });
    parts.forEach((part, at) => {
      if (at) {
        element.append(
          button(word, () => put(groupOf(word === "and" ? "or" : "and", parts)), {
            class: "word",
            title:
              word === "and"
                ? "All of these hold; press for: any of them"
                : "Any of these holds; press for: all of them",
          }),
        );
      }
      if (isGroup(part)) {
        element.append(draw(part, (inner) => (inner === null ? without(at) : changedAt(at, inner)), depth + 1));
        return;
      }
      const edit = button("", () => conditionForm(table, edit, part, (condition) => changedAt(at, condition)), {
        class: "condition",
        "aria-haspopup": "dialog",
        "aria-label": `Filter: ${part.column} ${inWords(part)}`,
      });
      edit.append(h("b", part.column), h("bdi", ` ${inWords(part)}`));
      element.append(
        h(
          "span.chip",
          edit,
          button("×", () => without(at), {
            class: "quiet",
            "aria-label": `Remove the filter ${part.column} ${inWords(part)}`,
          }),
        ),
      );
    });
    const add = (condition: Condition): void => put(groupOf(word, [...parts, condition]));
    const more = button(depth ? "+" : "+ Filter", () => conditionForm(table, more, null, add), {
      class: depth ? "quiet add" : "add",
      "aria-haspopup": "dialog",
      ...(depth ? { "aria-label": "Add to this group" } : { title: "Alt+F" }),
    });
    element.append(more);
    if (!depth && parts.length) {
      const extra = button(
        "⋯",
        () =>
          menu(extra, "More of filters", [
            [
              `Add a group joined by ${word === "and" ? "or" : "and"}`,
              () =>
                conditionForm(table, extra, null, (condition) =>
                  put(groupOf(word, [...parts, groupOf(word === "and" ? "or" : "and", [condition])])),
                ),
            ],
            ["Remove all filters", () => put({ all: [] })],
          ]),
        { class: "quiet", "aria-label": "More of filters", "aria-haspopup": "menu" },
      );
      element.append(extra);
    }
    return element;
  };
  return draw(filter, (group) => changed(group ?? { all: [] }), 0);
}

/** Ask for a condition: a column, an operator that fits its type, and what to compare with. */
export function conditionForm(
  table: Table,
  anchor: HTMLElement,
  before: Condition | null,
  done: (condition: Condition) => void,
  column?: string,
): void {
  const names = table.columns.map(({ name }) => h("option", { value: name }, name));
  const select = h("select", { "aria-label": "Column", onchange: () => operators() }, names);
  const op = h("select", { "aria-label": "Operator", onchange: () => values() });
  const inputs = h("span.values");
  const one = (label: string, value: string): HTMLInputElement =>
    h("input", {
      type: "text",
      "aria-label": label,
      value,
      autocomplete: "off",
      spellcheck: "false",
      placeholder: label,
    });
  const columnNow = (): Column => table.columns.find(({ name }) => name === select.value) ?? table.columns[0]!;
  const operators = (): void => {
    const known = session.operators[columnNow().kind] ?? [];
    op.replaceChildren(...known.map((name) => h("option", { value: name }, name)));
    if (before && known.includes(before.op)) op.value = before.op;
    else if (columnNow().kind === "text" && known.includes("contains")) op.value = "contains";
    values();
  };
  const values = (): void => {
    const value = before?.op === op.value ? before.value : undefined;
    const list = Array.isArray(value) ? value : value === undefined ? [] : [value];
    if (WITHOUT_VALUE.has(op.value)) inputs.replaceChildren();
    else if (op.value === "between") inputs.replaceChildren(one("From", list[0] ?? ""), one("To", list[1] ?? ""));
    else if (MANY.has(op.value)) {
      const area = h("textarea", {
        "aria-label": "Values, one a line",
        placeholder: "Values, one a line",
        rows: 4,
        spellcheck: "false",
      });
      area.value = list.join("\n");
      inputs.replaceChildren(area);
    } else inputs.replaceChildren(one("Value", list[0] ?? ""));
  };
  const apply = (event: Event): void => {
    event.preventDefault();
    const fields = [...inputs.querySelectorAll<HTMLInputElement | HTMLTextAreaElement>("input, textarea")].map(
      ({ value }) => value,
    );
    const condition: Condition = { column: select.value, op: op.value };
    if (MANY.has(op.value)) condition.value = (fields[0] ?? "").split("\n").filter((line) => line !== "");
    else if (op.value === "between") condition.value = fields;
    else if (fields.length) condition.value = fields[0]!;
    panel.hidePopover();
    done(condition);
  };
  select.value = before?.column ?? column ?? table.columns[0]!.name;
  operators();
  const panel = popover(
    anchor,
    "Filter",
    h("form.condition-form", { onsubmit: apply }, select, op, inputs, h("button.primary", { type: "submit" }, "Apply")),
  );
  panel.addEventListener("keydown", (event) => {
    if (
      event.key === "Enter" &&
      (event.ctrlKey || !(event.target instanceof HTMLTextAreaElement)) &&
      !(event.target instanceof HTMLButtonElement)
    )
      apply(event);
  });
  if (before || column) inputs.querySelector<HTMLElement>("input, textarea")?.focus();
}
