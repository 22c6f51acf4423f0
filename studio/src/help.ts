// The keyboard shortcuts: the one list of them, from which the pages take the names of their keys.

import { dialog, h } from "./dom.ts";

/** By page: the keys as they are shown, what they do, and their names if the router passes them to the page. */
const KEYS = [
  [
    "All pages",
    [
      ["/", "Find a table, column or page, or a row by its name"],
      ["?", "Show these shortcuts"],
      ["Ctrl S", "Review the staged changes; press again to save them"],
      ["Alt ←", "Back"],
      ["Esc", "Close the dialog or menu"],
    ],
  ],
  [
    "Rows",
    [
      ["← ↑ → ↓", "Move between cells"],
      ["Enter", "Edit the cell, or show its value if it cannot be edited"],
      ["Space", "Show the full value"],
      ["F4", "Follow the reference; on the primary key, open the row"],
      ["Ctrl C, Ctrl V", "Copy the value or the selected cells, paste a value or a block"],
      ["Shift F10, menu key", "Open the menu of the cell"],
      ["Alt F", "Add a filter", "Alt+f"],
      ["Ctrl F", "Search the rows", "Ctrl+f"],
      ["Shift click, Shift Enter", "Add a column to the sort order"],
      ["Alt PgUp, Alt PgDn", "Previous page, next page", "Alt+PageUp", "Alt+PageDown"],
      ["Alt Home, Alt End", "First page, last page", "Alt+Home", "Alt+End"],
    ],
  ],
  [
    "Editing rows",
    [
      ["Del", "Set to NULL"],
      ["Shift Enter", "Start a new line in the editor"],
      ["Esc", "Discard the edit"],
      ["Insert", "New row", "Insert"],
      ["Tab, Shift Tab", "In a new row: edit the next cell, the previous cell"],
      ["Ctrl Del", "Delete the row; press again to undo", "Ctrl+Delete", "Ctrl+Backspace"],
      ["Shift Space, Ctrl A", "Tick the row, tick all rows of the page"],
      ["Shift ↓, Shift click", "Select several cells of a column"],
      ["Ctrl D", "Fill down: the first selected cell's value into the others", "Ctrl+d"],
      ["Ctrl Z", "Undo the last staged change", "Ctrl+z"],
    ],
  ],
  [
    "SQL",
    [
      ["Ctrl Enter", "Run the selection, or the statement at the cursor", "Ctrl+Enter"],
      ["Alt Enter", "Run all statements of the tab", "Alt+Enter"],
      ["Ctrl Shift Enter", "Show the query plan"],
      ["Ctrl Space", "Show completions"],
      ["Alt .", "Cancel the running statement", "Alt+."],
      ["Alt T, Alt W", "New tab, close tab", "Alt+t", "Alt+w"],
      ["Alt S, Alt Q", "Save the query in a file, show the saved queries", "Alt+s", "Alt+q"],
      ["Alt H", "Show the history", "Alt+h"],
      ["Esc then Tab", "Move the focus out of the editor"],
    ],
  ],
  [
    "Schema",
    [
      ["← ↑ → ↓", "Pan", "ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"],
      ["+ −", "Zoom", "+", "=", "-"],
      ["0", "Fit to window", "0"],
    ],
  ],
] as const satisfies Group[];

type Group = readonly [title: string, keys: readonly (readonly [shown: string, does: string, ...names: string[]])[]];
type NamesOf<Key> = Key extends readonly [string, string, ...infer Names extends string[]] ? Names[number] : never;
/** A key of a page. One that is not in the list does not compile. */
export type Shortcut = NamesOf<(typeof KEYS)[number][1][number]>;
/** What the keys of a page do. */
export type Shortcuts = Partial<Record<Shortcut, () => void>>;

/** Show the list; `places` are the pages in the bar. */
export function showKeys(places: { name: string }[]): void {
  const pages: Group = ["Pages", places.map(({ name }, index) => [`Alt ${index + 1}`, name])];
  dialog(
    "Keyboard shortcuts",
    [
      h(
        "div.keys",
        [...KEYS, pages].map(([title, keys]: Group) =>
          h(
            "section",
            h("h3", title),
            h(
              "dl",
              keys.map(([key, does]) => h("div", h("dt", h("kbd", key)), h("dd", does))),
            ),
          ),
        ),
      ),
      h(
        "p.muted",
        "On a Mac, use Cmd instead of Ctrl. ",
        h("a", { href: "/static/licenses.txt", target: "_blank" }, "Licenses of the bundled libraries"),
      ),
    ],
    { class: "wide" },
  );
}
