// The palette: find a page, a table or a column by part of its name.

import { rowsPath } from "./api.ts";
import { dialog, h, replace } from "./dom.ts";
import { type Choice, matching } from "./find.ts";
import { go, main, type Place } from "./router.ts";
import { session } from "./session.ts";

const all = (places: Place[]): Choice[] => [
  ...session.tables.map((table) => ({ name: table.name, hint: "table", to: rowsPath(table.name) })),
  ...places.map(({ path, name }) => ({ name, hint: "page", to: path })),
  ...session.tables.flatMap((table) =>
    table.columns.map((column) => ({
      name: `${table.name}.${column.name}`,
      hint: column.type,
      to: `${rowsPath(table.name)}#${column.name}`,
    })),
  ),
];

export function showPalette(places: Place[]): void {
  const choices = all(places);
  let found: Choice[] = [];
  let chosen = 0;
  const list = h("ul", { role: "listbox", id: "found", "aria-label": "Results" });
  const input = h("input", {
    type: "text",
    role: "combobox",
    "aria-expanded": "true",
    "aria-controls": "found",
    "aria-label": "Find a table, column or page",
    placeholder: "Find a table, column or page",
    autocomplete: "off",
    spellcheck: "false",
  });
  const draw = (): void => {
    found = matching(choices, input.value);
    chosen = Math.max(0, Math.min(chosen, found.length - 1));
    replace(
      list,
      found.length === 0 &&
        h("li.muted", { role: "option", "aria-disabled": true, "aria-selected": false }, "No matches"),
      found.map(({ name, hint }, index) =>
        h(
          "li",
          {
            role: "option",
            id: `found-${index}`,
            "aria-selected": String(index === chosen),
            onclick: () => open(found[index]),
          },
          h("span", name),
          h("span.muted", hint),
        ),
      ),
    );
    input.setAttribute("aria-activedescendant", found.length ? `found-${chosen}` : "");
    list.children[chosen]?.scrollIntoView({ block: "nearest" });
  };
  const open = (choice: Choice | undefined): void => {
    if (!choice) return;
    box.close();
    go(choice.to);
    main.focus();
  };
  input.addEventListener("input", () => {
    chosen = 0;
    draw();
  });
  input.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) chosen = (chosen + step + found.length) % Math.max(found.length, 1);
    else if (event.key === "Enter") open(found[chosen]);
    else return;
    event.preventDefault();
    draw();
  });
  const box = dialog("Find", [input, list], { class: "palette" });
  input.focus();
  draw();
}
