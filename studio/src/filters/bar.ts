// The chips of a filter.

import type { Table } from "../api.ts";
import { button, h, menu, replace } from "../dom.ts";
import { drawLabel, labels, placeOf, readLabels, referenceLabel } from "../labels.ts";
import {
  type Condition,
  describe,
  type Filter,
  type Group,
  groupOf,
  isEquality,
  isGroup,
  joinerOf,
  otherJoiner,
  partsOf,
  replacePart,
  withoutPart,
  withPart,
} from "./filter.ts";
import { conditionForm } from "./form.ts";

/** Receives a group after a change. */
type Put = (group: Group) => void;

/** Draw the chips of a filter. `changed` receives the new filter after each change. */
export function filterBar(table: Table, filter: Group, changed: Put): HTMLElement {
  const element = h("span.filters", { role: "group", "aria-label": "Filters" }, parts(table, filter, changed));
  const add = button("+ Filter", () => conditionForm(table, add, null, (part) => changed(withPart(filter, part))), {
    class: "add",
    "aria-haspopup": "dialog",
    title: "Alt+F",
  });
  element.append(add);
  if (partsOf(filter).length) element.append(more(table, filter, changed));
  return element;
}

function more(table: Table, filter: Group, changed: Put): HTMLElement {
  const joiner = otherJoiner(joinerOf(filter));
  const addGroup = (): void =>
    conditionForm(table, opener, null, (part) => changed(withPart(filter, groupOf(joiner, [part]))));
  const opener = button(
    "⋯",
    () =>
      menu(opener, "More filter options", [
        [`Add an ${joiner.toUpperCase()} group`, addGroup],
        ["Remove all filters", () => changed({ all: [] })],
      ]),
    { class: "quiet", "aria-label": "More filter options", "aria-haspopup": "menu" },
  );
  return opener;
}

function parts(table: Table, group: Group, put: Put): HTMLElement[] {
  return partsOf(group).flatMap((part, at) => {
    const replaced = (changed: Filter): void => put(replacePart(group, at, changed));
    const removed = (): void => put(withoutPart(group, at));
    const drawn = isGroup(part) ? nested(table, part, replaced, removed) : chip(table, part, replaced, removed);
    return at ? [joinerButton(group, put), drawn] : [drawn];
  });
}

function joinerButton(group: Group, put: Put): HTMLElement {
  const joiner = joinerOf(group);
  return button(joiner, () => put(groupOf(otherJoiner(joiner), partsOf(group))), {
    class: "word",
    title:
      joiner === "and"
        ? "All conditions must match. Press to match any."
        : "Any condition may match. Press to match all.",
  });
}

function nested(table: Table, group: Group, replaced: Put, removed: () => void): HTMLElement {
  const put = (changed: Group): void => (partsOf(changed).length ? replaced(changed) : removed());
  const add = button("+", () => conditionForm(table, add, null, (part) => put(withPart(group, part))), {
    class: "quiet add",
    "aria-haspopup": "dialog",
    "aria-label": "Add a condition to this group",
  });
  return h("span.group", { role: "group", "aria-label": "Filter group" }, parts(table, group, put), add);
}

function chip(
  table: Table,
  condition: Condition,
  replaced: (condition: Condition) => void,
  removed: () => void,
): HTMLElement {
  const edit = button("", () => conditionForm(table, edit, condition, replaced), {
    class: "condition",
    "aria-haspopup": "dialog",
  });
  const remove = button("×", removed, { class: "quiet" });
  const draw = (label: string | null): void => {
    const text = label === null ? describe(condition) : `${describe(condition)} · ${label}`;
    edit.setAttribute("aria-label", `Filter: ${condition.column} ${text}`);
    replace(edit, h("b", condition.column), h("bdi", ` ${describe(condition)}`), drawLabel(label));
    remove.setAttribute("aria-label", `Remove filter: ${condition.column} ${text}`);
  };
  draw(null);
  void readName(table, condition).then(draw);
  return h("span.chip", edit, remove);
}

/** Read the name of the row that a condition compares a reference with. */
async function readName(table: Table, { column, op, value }: Condition): Promise<string | null> {
  const target = table.columns.find(({ name }) => name === column)?.references;
  if (!labels.shown || !target || !isEquality(op) || typeof value !== "string") return null;
  await readLabels(placeOf(target), [value]);
  return referenceLabel(table, column, value);
}
