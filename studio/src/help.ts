// The list of keyboard shortcuts.

import { dialog, h } from "./dom.ts";

const KEYS: [string, [string, string][]][] = [
  [
    "All pages",
    [
      ["/", "Find a table, column or page"],
      ["?", "Show these shortcuts"],
      ["Ctrl S", "Review the staged changes; press again to save them"],
      ["Alt 1 – 5", "Overview, SQL, schema, move, activity"],
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
      ["Ctrl C, Ctrl V", "Copy the full value, paste a value or a block"],
      ["Shift F10, menu key", "Open the menu of the cell"],
      ["Alt F", "Add a filter"],
      ["Shift click, Shift Enter", "Add a column to the sort order"],
      ["Alt PgUp, Alt PgDn", "Previous page, next page"],
      ["Alt Home, Alt End", "First page, last page"],
    ],
  ],
  [
    "Editing rows",
    [
      ["Del", "Set to NULL"],
      ["Shift Enter", "Start a new line in the editor"],
      ["Esc", "Discard the edit"],
      ["Insert", "New row"],
      ["Ctrl Del", "Delete the row; press again to undo"],
      ["Shift Space, Ctrl A", "Tick the row, tick all rows of the page"],
      ["Shift ↓, Shift click", "Select several cells of a column"],
      ["Ctrl D", "Fill down: the first selected cell's value into the others"],
      ["Ctrl Z", "Undo the last staged change"],
    ],
  ],
  [
    "SQL",
    [
      ["Ctrl Enter", "Run the selection, or the statement at the cursor"],
      ["Ctrl Shift Enter", "Show the query plan"],
      ["Ctrl Space", "Show completions"],
      ["Alt .", "Cancel the running statement"],
      ["Alt T, Alt W", "New tab, close tab"],
      ["Alt H", "Show the history"],
      ["Esc then Tab", "Move the focus out of the editor"],
    ],
  ],
  [
    "Schema",
    [
      ["← ↑ → ↓", "Pan"],
      ["+ −", "Zoom"],
      ["0", "Fit to window"],
    ],
  ],
];

export function showKeys(): void {
  dialog(
    "Keyboard shortcuts",
    [
      h(
        "div.keys",
        KEYS.map(([title, keys]) =>
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
