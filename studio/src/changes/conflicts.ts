// Conflicts: values that changed in the database after they were read. The user picks one of the two.

import { type Cell, wholeValue } from "../api.ts";
import { button, dialog, h, replace } from "../dom.ts";
import { reload } from "../router.ts";
import { shownValue } from "./diff.ts";
import { type Change, changeName, changes, discard, keepMine, takeTheirs } from "./staged.ts";

export type Conflict = {
  /** The index of the change in the request. */
  index: number;
  column?: string;
  was?: Cell;
  now?: Cell;
  deleted?: boolean;
};

/** Ask for a decision on each conflict. `again` reopens the review. */
export function decideConflicts(sent: Change[], conflicts: Conflict[], again: () => void): void {
  const status = h("span", { role: "status" });
  const save = button(
    "Review and save",
    () => {
      box.close();
      reload();
      again();
    },
    { class: "primary" },
  );
  const onDecided = (): void => {
    const isOpen = box.querySelector("tr:not(.decided) button") !== null;
    const rest = changes.size ? "Review and save again." : "Nothing is left to save.";
    status.textContent = isOpen ? "" : `All conflicts resolved. ${rest}`;
    save.disabled = !changes.size;
    save.focus();
  };
  const rows = conflicts.map((conflict) => {
    const change = sent[conflict.index];
    return change ? conflictRow(change, conflict, onDecided) : null;
  });
  const back = button("Back to editing", () => {
    box.close();
    reload();
  });
  const box = dialog(
    "Conflicting changes",
    [
      h("p", "Nothing was saved. These values changed in the database after you read them."),
      h("div.scroll", { tabindex: 0, role: "region", "aria-label": "Conflicts" }, table(rows)),
      h("footer", status, h("span.grow"), back, save),
    ],
    { class: "review" },
  );
  box.querySelector<HTMLElement>("td button")?.focus();
}

const table = (rows: (HTMLElement | null)[]): HTMLElement =>
  h(
    "table.conflicts",
    h(
      "thead",
      h(
        "tr",
        ["Value", "When you read it", "In the database", "Your change"].map((text) => h("th", { scope: "col" }, text)),
        h("td"),
      ),
    ),
    h("tbody", rows),
  );

function conflictRow(change: Change, conflict: Conflict, onDecided: () => void): HTMLElement {
  const { column, was, now, deleted } = conflict;
  const row = h("tr");
  const choice = (text: string, act: () => void | Promise<void>): HTMLElement =>
    button(text, async () => {
      await act();
      for (const other of row.querySelectorAll("button")) other.disabled = true;
      row.classList.add("decided");
      onDecided();
    });
  const choices = deleted
    ? [choice("Discard my change", () => discard(change))]
    : [
        choice("Keep theirs", () => takeTheirs(change, column)),
        choice(change.op === "delete" ? "Delete anyway" : "Keep mine", async () =>
          // The next save compares with the value shown here, in full even if the response cut it.
          keepMine(change, column, column ? await wholeValue(change.table, column, change.key, now ?? null) : null),
        ),
      ];
  const wanted = change.op === "delete" ? "delete the row" : column ? shownValue(change.values[column]) : "your change";
  replace(
    row,
    h("th", { scope: "row" }, changeName(change), column ? h("span.muted", ` ${column}`) : ""),
    h("td", deleted ? "" : shownValue(was)),
    h("td.theirs", deleted ? "row deleted" : shownValue(now)),
    h("td.mine", wanted),
    h("td.choices", choices),
  );
  return row;
}
