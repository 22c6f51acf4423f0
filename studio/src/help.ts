// The list of keys.

import { dialog, h } from "./dom.ts";

const KEYS: [string, [string, string][]][] = [
  [
    "Everywhere",
    [
      ["/", "Find a table, column or page"],
      ["?", "Show these keys"],
      ["Ctrl S", "Review the staged changes, again to save"],
      ["Alt 1 – 4", "Overview, SQL, schema, move"],
      ["Alt ←", "Back"],
      ["Esc", "Close what is open"],
    ],
  ],
  [
    "Rows",
    [
      ["← ↑ → ↓", "Walk"],
      ["Enter", "Edit the cell; where nothing can be edited, show it whole"],
      ["Space", "Show the value whole"],
      ["F4", "Follow the reference; on the id, open the row"],
      ["Ctrl C, Ctrl V", "Copy the whole value, put one in"],
      ["Alt F", "Add a filter"],
      ["Shift click, Shift Enter", "Sort by one more column"],
      ["Alt PgUp, Alt PgDn", "Page before, page after"],
      ["Alt Home, Alt End", "First page, last page"],
    ],
  ],
  [
    "Rows, with write mode",
    [
      ["Del", "Set to NULL"],
      ["Shift Enter", "New line while editing"],
      ["Esc", "Leave the cell as it was"],
      ["Insert", "New row"],
      ["Ctrl Del", "Delete the row, again to keep it"],
      ["Ctrl Z", "Take back the last staged change"],
    ],
  ],
  [
    "SQL",
    [
      ["Ctrl Enter", "Run the selection, or the statement at the cursor"],
      ["Ctrl Shift Enter", "Explain it"],
      ["Ctrl Space", "Complete"],
      ["Alt .", "Cancel what runs"],
      ["Alt T, Alt W", "New tab, close the tab"],
      ["Alt H", "History"],
      ["Esc then Tab", "Leave the editor"],
    ],
  ],
  [
    "Schema",
    [
      ["← ↑ → ↓", "Pan"],
      ["+ −", "Zoom"],
      ["0", "Show all"],
    ],
  ],
];

export function showKeys(): void {
  dialog(
    "Keys",
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
        "On a Mac, Cmd does what Ctrl does. ",
        h("a", { href: "/static/licenses.txt", target: "_blank" }, "Licenses of the libraries in here"),
      ),
    ],
    { class: "wide" },
  );
}
