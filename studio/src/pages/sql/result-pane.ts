// The result of one statement: its rows as a grid, its plan, its notices and its error.

import type { Cell } from "../../api.ts";
import { button, type Child, h, replace } from "../../dom.ts";
import type { ChartStore } from "./chart/store.ts";
import type { Place } from "./editor.ts";
import type { Plan } from "./plan.ts";
import { planTable } from "./plan-table.ts";
import type { ResultView } from "./result.ts";
import type { ResultGrid } from "./result-grid.ts";
import { ResultTools } from "./result-tools.ts";
import type { ColumnHead, Notice, SqlProblem } from "./stream.ts";

type GridCode = typeof import("./result-grid.ts");

let loaded: GridCode | undefined;

/** Load the code of the grid before the first result; return nothing if the studio does not send it. */
async function loadGrid(): Promise<GridCode | undefined> {
  try {
    loaded ??= await import("./result-grid.ts");
  } catch {
    // The next result tries again.
  }
  return loaded;
}

export class ResultPane implements ResultView {
  readonly element = h("div.result");
  readonly name: string;
  readonly statement: string;
  heads: ColumnHead[] = [];
  readonly rows: Cell[][] = [];
  hasMore = false;
  /** A short description of the end. */
  summary = "running";
  failed = false;
  private readonly store: ChartStore;
  private readonly above = h("div.above");
  private readonly place = h("div.result-place");
  private grid: ResultGrid | null = null;
  private tools: ResultTools | null = null;
  private isShown = false;
  private isComplete = false;

  constructor({ name, statement }: { name: string; statement: string }, store: ChartStore) {
    this.name = name;
    this.statement = statement;
    this.store = store;
    this.element.append(this.above, this.place);
    // While the statement runs.
    void loadGrid();
  }

  /** Draw the grid and the chart. */
  show(): void {
    this.isShown = true;
    if (this.heads.length && !this.grid) void this.drawGrid();
  }

  /** Remove the grid and the chart; the rows stay. */
  hide(): void {
    this.isShown = false;
    this.tools?.destroy();
    this.grid?.destroy();
    this.grid = this.tools = null;
  }

  showColumns(heads: ColumnHead[]): void {
    this.heads = heads;
    if (this.isShown && heads.length) void this.drawGrid();
  }

  addRows(rows: Cell[][]): void {
    for (const row of rows) this.rows.push(row);
    this.grid?.add(rows);
  }

  /** Show what needs all rows. */
  complete(hasMore: boolean): void {
    this.hasMore = hasMore;
    this.isComplete = true;
    this.tools?.complete();
  }

  showPlan(plan: Plan, measured: boolean): void {
    replace(this.place, planTable(plan, measured));
  }

  showNotices(notices: Notice[]): void {
    if (notices.length) this.above.append(noticeList(notices));
  }

  /** Show a sentence in place of rows. */
  showText(text: string): void {
    replace(this.place, h("p.command", text));
  }

  showProblem(problem: SqlProblem, place: Place | null): void {
    const { what, detail, hint, context, means, fix, code } = problem;
    const link = place && button(`Line ${place.line}, column ${place.column}`, place.goTo, { class: "inline" });
    const lines: Child[] = [link, detail, hint && `Hint: ${hint}`, context, means, fix && `To fix it, ${fix}.`];
    this.above.append(
      h(
        "div.problem",
        { role: "alert" },
        h("strong", what),
        lines.filter((line) => !!line).map((line) => h("p", line)),
        code && h("p.muted", `SQLSTATE ${code}`),
      ),
    );
  }

  /** Draw the grid, after its code has arrived. */
  private async drawGrid(): Promise<void> {
    const made = loaded ?? (await loadGrid());
    if (!made) {
      if (this.isShown)
        this.showText("The grid could not be loaded. Check the terminal of the studio, then run again.");
      return;
    }
    if (!this.isShown || this.grid) return;
    const split = h("div.split");
    this.tools = new ResultTools(this, split, this.store);
    replace(this.place, this.tools.element, split);
    this.grid = new made.ResultGrid(split, this.heads, this.rows);
    if (this.isComplete) this.tools.complete();
  }
}

export const noticeList = (notices: Notice[]): HTMLElement =>
  h(
    "ul.plain.notices",
    notices.map(({ severity, what, detail, hint }) =>
      h(
        "li",
        { class: severity === "Warning" ? "warning" : "" },
        h("strong", `${severity}: `),
        what,
        detail && h("div", detail),
        hint && h("div", `Hint: ${hint}`),
      ),
    ),
  );
