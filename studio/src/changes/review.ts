// The review of the staged changes: a diff and its SQL, saved in one transaction.

import { asRefused, post } from "../api.ts";
import { announce, button, type Child, dialog, h, plural, replace } from "../dom.ts";
import { reload } from "../router.ts";
import { sentence } from "../text.ts";
import { transactionOf } from "../transactions.ts";
import { type Conflict, decideConflicts } from "./conflicts.ts";
import { diff, readNames } from "./diff.ts";
import {
  type Change,
  type ChangeError,
  changeOf,
  changes,
  discard,
  discardAll,
  forgetSaved,
  NO_HISTORY,
  reject,
  toWire,
  undo,
} from "./staged.ts";

/** The rows of the changes, in their order, after the save. */
type Saved = { rows: { key: string }[] };
type Preview = { sql: { statement: string; parameters: unknown }[] };

/** Show the staged changes and their SQL. Ctrl+S in the dialog saves them. */
export async function review(): Promise<void> {
  if (!changes.size) {
    announce("No staged changes.");
    return;
  }
  await new Review().draw();
}

/** Undo the last step, or say that there is none. */
export function undoLast(): void {
  if (!undo()) announce("Nothing to undo.");
}

class Review {
  private readonly list = h("ol.changes");
  private readonly sql = h("div.statements", { "aria-live": "polite" }, h("p.muted", "Loading the SQL…"));
  private readonly problem = h("div.failed", { role: "alert" });
  private readonly save = button("Save", () => void this.commit(), { class: "primary", title: "Ctrl+S" });
  private readonly box: HTMLDialogElement;

  constructor() {
    const discardButton = button("Discard all", () => {
      discardAll();
      this.box.close();
      announce("Changes discarded. Press Ctrl+Z to restore them.");
    });
    const back = button("Back to editing", () => this.box.close());
    this.box = dialog(
      "Staged changes",
      [
        this.problem,
        this.list,
        h("p.muted", NO_HISTORY),
        h("h3", "SQL, in one transaction"),
        this.sql,
        h("footer", discardButton, h("span.grow"), back, this.save),
      ],
      { class: "review" },
    );
    // On the document, because a click on a text takes the focus out of the dialog.
    const onKey = (event: KeyboardEvent): void => this.onKey(event);
    document.addEventListener("keydown", onKey);
    this.box.addEventListener("close", () => document.removeEventListener("keydown", onKey));
    this.save.focus();
  }

  async draw(): Promise<void> {
    this.drawList();
    void readNames([...changes.values()]).then(() => this.box.open && this.drawList());
    try {
      const { sql } = await post<Preview>("/api/changes", {
        changes: [...changes.values()].map(toWire),
        preview: true,
      });
      replace(this.sql, sql.map(drawStatement));
    } catch (error) {
      const { problem } = asRefused(error);
      replace(this.sql, h("p.muted", "No SQL for these changes."));
      this.showProblem(problem);
    }
  }

  private drawList(): void {
    this.save.textContent = `Save ${plural(changes.size, "change")}`;
    replace(
      this.list,
      [...changes.values()].map((change) =>
        diff(change, () => {
          discard(change);
          if (!changes.size) this.box.close();
          else {
            void this.draw();
            this.save.focus();
          }
        }),
      ),
    );
  }

  private async commit(): Promise<void> {
    // A copy, because the page can be edited before the response arrives.
    const sent = structuredClone([...changes.values()]);
    this.save.disabled = true;
    let saved: Saved;
    try {
      saved = await post<Saved>("/api/changes", { changes: sent.map(toWire) });
    } catch (error) {
      this.save.disabled = false;
      this.onRefused(asRefused(error), sent);
      return;
    }
    forgetSaved(
      sent,
      saved.rows.map(({ key }) => key),
    );
    announce(`Saved ${plural(sent.length, "change")}.`);
    // An edit of a row that still shows its old values would be a conflict, so the dialog covers them until the new ones
    // arrive.
    this.box.inert = true;
    reload(() => this.box.close());
  }

  private onRefused({ status, problem }: ReturnType<typeof asRefused>, sent: Change[]): void {
    if (status === 409) {
      this.box.close();
      const staged = sent.map((change) => changeOf(change.table, change.key) ?? change);
      decideConflicts(staged, problem.conflicts as Conflict[], () => void review());
      return;
    }
    reject(sent, (problem.errors ?? []) as ChangeError[]);
    this.drawList();
    this.showProblem(problem);
    this.list.querySelector(".rejected")?.scrollIntoView({ block: "nearest" });
  }

  private showProblem({ what, means, fix, tabs }: ReturnType<typeof asRefused>["problem"]): void {
    replace(
      this.problem,
      h("strong", what),
      h("p", means ?? ""),
      h("p", sentence(fix)),
      Array.isArray(tabs) &&
        h(
          "p",
          "Open transaction: ",
          tabs.map((tab) => this.linkTo(tab)),
        ),
    );
    this.problem.scrollIntoView({ block: "nearest" });
  }

  private linkTo(session: string): Child {
    const transaction = transactionOf(session);
    if (!transaction) return "in another window of this studio ";
    const onclick = (): void => {
      this.box.close();
      transaction.show();
    };
    return [h("a", { href: "/sql", onclick }, `SQL tab “${transaction.title()}”`), " "];
  }

  private onKey(event: KeyboardEvent): void {
    if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "s") return;
    event.preventDefault();
    event.stopPropagation();
    if (!this.save.disabled) void this.commit();
  }
}

const drawStatement = ({ statement, parameters }: Preview["sql"][number]): HTMLElement =>
  h(
    "div",
    h("pre", { tabindex: 0, "aria-label": "Statement" }, statement),
    h("pre.muted", { tabindex: 0, "aria-label": "Parameters" }, describeParameters(parameters)),
  );

const describeParameters = (parameters: unknown): string =>
  (Array.isArray(parameters)
    ? parameters.map((value, at): [string, unknown] => [`$${at + 1}`, value])
    : Object.entries(parameters ?? {})
  )
    .map(([name, value]) => `${name} = ${value === null ? "NULL" : clipped(JSON.stringify(value))}`)
    .join("\n");

const clipped = (text: string): string =>
  text.length > 500 ? `${text.slice(0, 500)}… ${text.length} characters` : text;
