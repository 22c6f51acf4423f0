// What was edited and is not saved yet: kept over all pages, shown as a diff with its SQL, saved in one transaction.

import { asRefused, type Cell, get, isCut, post, type Whole } from "./api.ts";
import { button, type Child, dialog, h, plural, replace, say } from "./dom.ts";
import { reload } from "./router.ts";
import { oneLine, same, whole } from "./values.ts";

export type Change = {
  table: string;
  op: "update" | "insert" | "delete";
  /** The row's key, or a name of our own for a row that is not there yet. */
  key: string;
  values: Record<string, Whole>;
  was: Record<string, Whole>;
  /** Why the database refused it, by column. */
  errors: Record<string, string>;
  error?: string;
};

type Conflict = {
  index: number;
  key: string;
  column?: string;
  was?: Cell;
  now?: Cell;
  wanted?: Cell;
  deleted?: boolean;
};

export const changes = new Map<string, Change>();
const listeners = new Set<() => void>();
const past: string[] = [];
let newRows = 0;

/** Be told when anything is staged, taken back, refused or saved; call what comes back to stop. */
export function onChanges(listener: () => void): () => void {
  listeners.add(listener);
  return () => void listeners.delete(listener);
}

const tell = (): void => {
  for (const listener of listeners) listener();
};
const place = (table: string, key: string): string => `${table}/${key}`;

function remember(): void {
  past.push(JSON.stringify([...changes]));
  if (past.length > 100) past.shift();
}

export const changeOf = (table: string, key: string): Change | undefined => changes.get(place(table, key));
export const inserted = (table: string): Change[] =>
  [...changes.values()].filter((change) => change.op === "insert" && change.table === table).reverse();

/** Stage a value for a cell; the value it had before takes the change back. */
export function stage(table: string, key: string, column: string, was: Whole, value: Whole): void {
  remember();
  const change = changeOf(table, key) ?? { table, op: "update", key, values: {}, was: {}, errors: {} };
  changes.set(place(table, key), change);
  delete change.errors[column];
  if (!Object.keys(change.errors).length) delete change.error;
  if (change.op === "insert") {
    change.values[column] = value;
  } else {
    if (!(column in change.was)) change.was[column] = was;
    change.values[column] = value;
    if (same(change.was[column], value)) forget(change, column);
  }
  tell();
}

function forget(change: Change, column: string): void {
  delete change.values[column];
  delete change.was[column];
  delete change.errors[column];
  if (change.op === "update" && !Object.keys(change.values).length) changes.delete(place(change.table, change.key));
}

export function stageInsert(table: string, values: Record<string, Whole> = {}): string {
  remember();
  const key = `new ${++newRows}`;
  changes.set(place(table, key), { table, op: "insert", key, values, was: {}, errors: {} });
  tell();
  return key;
}

/** Stage that a row goes; asked again, it stays. A row that was only staged is forgotten. */
export function stageDelete(table: string, key: string, row: Record<string, Cell>): void {
  remember();
  const before = changeOf(table, key);
  changes.delete(place(table, key));
  if (before?.op !== "delete" && before?.op !== "insert") {
    const was = Object.fromEntries(Object.entries(row).filter((entry): entry is [string, Whole] => !isCut(entry[1])));
    changes.set(place(table, key), { table, op: "delete", key, values: {}, was, errors: {} });
  }
  tell();
}

export function undo(): void {
  const before = past.pop();
  if (!before) {
    say("There is nothing to take back.");
    return;
  }
  changes.clear();
  for (const [name, change] of JSON.parse(before) as [string, Change][]) changes.set(name, change);
  tell();
}

function discard(): void {
  remember();
  changes.clear();
  tell();
}

// JSON would drop what is undefined and keep the order, which is that in which the changes were made.
const wire = (change: Change): object =>
  change.op === "insert"
    ? { op: change.op, table: change.table, values: change.values }
    : {
        op: change.op,
        table: change.table,
        key: change.key,
        values: change.op === "update" ? change.values : undefined,
        was: change.was,
      };

const called = (change: Change): string =>
  change.op === "insert" ? `${change.table}: new row` : `${change.table} ${change.key}`;

function diffOf(change: Change, remove: () => void): HTMLElement {
  const columns = Object.keys(change.op === "delete" ? change.was : change.values);
  return h(
    `li.change.${change.op}` as "li.change",
    h(
      "div.head",
      h("span.op", { insert: "insert", update: "update", delete: "delete" }[change.op]),
      h("strong", called(change)),
      button("Take back", remove, { class: "quiet", "aria-label": `Take back: ${change.op} ${called(change)}` }),
    ),
    change.error && h("p.wrong", change.error),
    change.op === "insert" && !columns.length && h("p.muted", "Every column gets its default."),
    h(
      "dl.diff",
      columns.map((column) => [
        h("dt", column),
        h(
          "dd",
          change.op !== "insert" && h("del", brief(change.was[column])),
          change.op !== "delete" && h("ins", brief(change.values[column])),
          change.errors[column] && h("p.wrong", change.errors[column]),
        ),
      ]),
    ),
  );
}

const brief = (value: Whole | undefined): HTMLElement =>
  typeof value === "string" && value.includes("\n") && value.length < 5000 ? whole(value) : oneLine(value);

/** Show what is staged with its SQL; the same key once more saves it. */
export async function review(): Promise<void> {
  if (!changes.size) return say("Nothing is staged.");
  const list = h("ol.changes");
  const sql = h("div.statements", { "aria-live": "polite" }, h("p.muted", "Asking for the SQL"));
  const failed = h("div.failed", { role: "alert" });
  const save = button("Save", () => void commit(), { class: "primary", title: "Ctrl+S" });
  const box = dialog(
    "Staged changes",
    [
      failed,
      list,
      h("h3", "SQL, in one transaction"),
      sql,
      h(
        "footer",
        button("Discard all", () => {
          discard();
          box.close();
          say("Discarded. Ctrl+Z brings them back.");
        }),
        h("span.grow"),
        button("Back to editing", () => box.close()),
        save,
      ),
    ],
    { class: "review" },
  );

  const draw = (): void => {
    save.textContent = `Save ${plural(changes.size, "change")}`;
    replace(
      list,
      [...changes].map(([name, change]) =>
        diffOf(change, () => {
          remember();
          changes.delete(name);
          tell();
          if (changes.size) void redraw();
          else box.close();
        }),
      ),
    );
  };
  const redraw = async (): Promise<void> => {
    draw();
    try {
      const preview = await post<{ sql: { statement: string; parameters: unknown }[] }>("/api/changes", {
        changes: [...changes.values()].map(wire),
        preview: true,
      });
      replace(
        sql,
        preview.sql.map(({ statement, parameters }) =>
          h(
            "div",
            h("pre", { tabindex: 0, "aria-label": "Statement" }, statement),
            h("pre.muted", { tabindex: 0, "aria-label": "Parameters" }, shown(parameters)),
          ),
        ),
      );
    } catch (error) {
      explain(error);
    }
  };
  const commit = async (): Promise<void> => {
    const sent = [...changes.values()];
    save.disabled = true;
    try {
      await post("/api/changes", { changes: sent.map(wire) });
      changes.clear();
      past.length = 0;
      tell();
      box.close();
      say(`Saved ${plural(sent.length, "change")}.`);
      reload();
    } catch (error) {
      explain(error, sent);
    } finally {
      save.disabled = false;
    }
  };
  const explain = (error: unknown, sent: Change[] = []): void => {
    const { status, problem } = asRefused(error);
    if (status === 409) {
      box.close();
      resolve(sent, problem.conflicts as Conflict[]);
      return;
    }
    const errors = (problem.errors ?? []) as { index: number; column: string | null; what: string }[];
    for (const { index, column, what } of errors) {
      const change = sent[index];
      if (!change) continue;
      if (column) change.errors[column] = what;
      else change.error = what;
    }
    tell();
    draw();
    if (!sent.length) replace(sql, h("p.muted", "There is none for these changes."));
    replace(failed, h("strong", problem.what), h("p", problem.means ?? ""), h("p", problem.fix ?? ""));
    failed.scrollIntoView({ block: "nearest" });
  };

  box.addEventListener("keydown", (event) => {
    if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "s") return;
    event.preventDefault();
    event.stopPropagation();
    if (!save.disabled) void commit();
  });
  save.focus();
  await redraw();
}

const shown = (parameters: unknown): string =>
  (Array.isArray(parameters) ? parameters.map((value, at) => [`$${at + 1}`, value]) : Object.entries(parameters ?? {}))
    .map(([name, value]) => `${name} = ${value === null ? "NULL" : clipped(JSON.stringify(value))}`)
    .join("\n");

const clipped = (text: string): string =>
  text.length > 500 ? `${text.slice(0, 500)}… ${text.length} characters` : text;

/** Somebody else was there first: both values side by side, and the person decides. */
function resolve(sent: Change[], conflicts: Conflict[]): void {
  const rows = conflicts.map((conflict) => {
    const change = sent[conflict.index];
    if (!change) return null;
    const { column } = conflict;
    const row = h("tr");
    const decide = (text: string, act: () => unknown): HTMLButtonElement =>
      button(text, async () => {
        remember();
        await act();
        tell();
        row.querySelectorAll("button").forEach((other) => {
          other.disabled = true;
        });
        row.classList.add("decided");
        rest.textContent = box.querySelector("tr:not(.decided) button")
          ? ""
          : changes.size
            ? "All decided. Review and save again."
            : "All decided. Nothing is left to save.";
        again.disabled = !changes.size;
        again.focus();
      });
    const choices: Child[] = conflict.deleted
      ? [decide("Drop my change", () => changes.delete(place(change.table, change.key)))]
      : [
          decide("Take theirs", () =>
            column && change.op === "update" ? forget(change, column) : changes.delete(place(change.table, change.key)),
          ),
          decide(change.op === "delete" ? "Delete anyway" : "Keep mine", async () => {
            if (column) change.was[column] = await seen(change, column, conflict.now ?? null);
          }),
        ];
    replace(
      row,
      h("th", { scope: "row" }, called(change), column ? h("span.muted", ` ${column}`) : ""),
      h("td", conflict.deleted ? "" : cellOf(conflict.was)),
      h("td.theirs", conflict.deleted ? "deleted by somebody else" : cellOf(conflict.now)),
      h("td.mine", change.op === "delete" ? "delete the row" : column ? cellOf(change.values[column]) : "your change"),
      h("td.choices", choices),
    );
    return row;
  });
  const rest = h("span", { role: "status" });
  const again = button(
    "Review and save",
    () => {
      box.close();
      reload();
      void review();
    },
    { class: "primary" },
  );
  const box = dialog(
    "Changed by somebody else meanwhile",
    [
      h("p", "Nothing was saved. These values are no longer what you saw when you edited them."),
      h(
        "div.scroll",
        { tabindex: 0, role: "region", "aria-label": "Conflicts" },
        h(
          "table.conflicts",
          h(
            "thead",
            h(
              "tr",
              ["Cell", "You saw", "It is now", "You want", ""].map((text) =>
                text ? h("th", { scope: "col" }, text) : h("td"),
              ),
            ),
          ),
          h("tbody", rows),
        ),
      ),
      h(
        "footer",
        rest,
        h("span.grow"),
        button("Back to editing", () => {
          box.close();
          reload();
        }),
        again,
      ),
    ],
    { class: "review" },
  );
  box.querySelector<HTMLElement>("td button")?.focus();
}

/** What is there now and was seen, whole even where it is too long to come along. */
const seen = async (change: Change, column: string, now: Cell): Promise<Whole> =>
  isCut(now)
    ? (await get<{ value: Whole }>(`/api/cell/${change.table}/${column}/${encodeURIComponent(change.key)}`)).value
    : now;

const cellOf = (cell: Cell | undefined): HTMLElement =>
  cell === undefined || isCut(cell) ? oneLine(cell) : brief(cell);
