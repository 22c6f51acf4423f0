// The palette: find a page, a table or a column by part of its name.

import { get, rowPath, rowsPath } from "./api.ts";
import { dialog, h, replace } from "./dom.ts";
import { type Choice, matching } from "./find.ts";
import { rememberLabel } from "./labels.ts";
import { Latest } from "./latest.ts";
import { shownName } from "./names.ts";
import { go, main, type Place } from "./router.ts";
import { session, tables } from "./session.ts";
import { visible } from "./values.ts";

const all = (places: Place[]): Choice[] => [
  ...tables.map(({ name, kind }) => ({ name: shownName(name), hint: kind, to: rowsPath(name), isTable: true })),
  ...places.map(({ path, name }) => ({ name, hint: "page", to: path })),
  ...session.tables.flatMap((table) =>
    table.columns.map((column) => ({
      name: `${table.name}.${column.name}`,
      hint: column.type,
      to: `${rowsPath(table.name)}#${column.name}`,
    })),
  ),
];

type FoundRow = { table: string; key: string; label: string | null };

/** Return the rows to offer below the tables and pages. A search that takes too long, or is none, offers nothing. */
async function findRows(q: string, signal: AbortSignal): Promise<Choice[]> {
  if (q.length < 2) return [];
  const found = await get<FoundRow[]>("/api/search", { q }, { signal }).catch(() => []);
  return found.map(asChoice);
}

function asChoice({ table, key, label }: FoundRow): Choice {
  rememberLabel(table, key, label);
  return { name: label ?? key, hint: `${table} ${key}`, to: rowPath(table, key) };
}

const field = (): HTMLInputElement =>
  h("input", {
    type: "text",
    role: "combobox",
    "aria-expanded": "true",
    "aria-controls": "found",
    "aria-label": "Find a table, column or page, or a row by its name",
    placeholder: "Find a table, column or page, or a row by its name",
    autocomplete: "off",
    spellcheck: "false",
  });

export function showPalette(places: Place[]): void {
  const choices = all(places);
  let found: Choice[] = [];
  let chosen = 0;
  let rows: Choice[] = [];
  const latest = new Latest();
  const list = h("ul", { role: "listbox", id: "found", "aria-label": "Results" });
  const input = field();
  const draw = (): void => {
    found = [...matching(choices, input.value), ...rows];
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
          h("bdi", visible(name)),
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
    rows = [];
    latest.afterPause(async (signal) => {
      const offered = await findRows(input.value.trim(), signal);
      if (signal.aborted) return;
      rows = offered;
      draw();
    });
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
  box.addEventListener("close", () => latest.stop());
  input.focus();
  draw();
}
