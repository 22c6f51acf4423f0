// The result of one statement: its rows as a grid, its plan, its notices and its error.

import type { CellKeyDownEvent, ColDef, GridApi } from "ag-grid-community";
import { type Cell, isCut } from "../../api.ts";
import { announce, button, type Child, copyText, h, number, replace } from "../../dom.ts";
import { fittingWidth, Heading, makeGrid } from "../../grid.ts";
import { keyName } from "../../keys.ts";
import { plain, textOf } from "../../text.ts";
import { oneLine, whole } from "../../values.ts";
import type { ChartStore } from "./chart/store.ts";
import type { Place } from "./editor.ts";
import type { Plan } from "./plan.ts";
import { planTable } from "./plan-table.ts";
import type { ResultView } from "./result.ts";
import { ResultTools } from "./result-tools.ts";
import type { ColumnHead, Notice, SqlProblem } from "./stream.ts";

/** The rows by which the columns of a grid that is drawn again get their widths. */
const MEASURED_ROWS = 500;
/** The types whose values are right-aligned. */
const NUMBERS = /^(smallint|integer|bigint|numeric|real|double precision|int2|int4|int8|float4|float8)\b/;

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
  private grid: GridApi<Cell[]> | null = null;
  private tools: ResultTools | null = null;
  private isShown = false;
  private isComplete = false;

  constructor({ name, statement }: { name: string; statement: string }, store: ChartStore) {
    this.name = name;
    this.statement = statement;
    this.store = store;
    this.element.append(this.above, this.place);
  }

  /** Draw the grid and the chart. */
  show(): void {
    this.isShown = true;
    if (this.heads.length && !this.grid) this.drawGrid();
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
    if (this.isShown && heads.length) this.drawGrid();
  }

  addRows(rows: Cell[][]): void {
    const isFirst = !this.rows.length;
    for (const row of rows) this.rows.push(row);
    this.grid?.applyTransaction({ add: rows });
    if (isFirst) this.fit(rows);
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

  private drawGrid(): void {
    const place = h("div.result-grid");
    const value = new Value();
    const split = h("div.split", place, value.element);
    this.tools = new ResultTools(this, split, this.store);
    replace(this.place, this.tools.element, split);
    this.grid = makeGrid<Cell[]>(place, {
      columnDefs: this.heads.map(columnDefinition),
      rowData: [...this.rows],
      overlayNoRowsTemplate: "<span>No rows</span>",
      onCellKeyDown: (event) => onCellKey(event as CellKeyDownEvent<Cell[]>, value),
      onCellDoubleClicked: ({ data, colDef }) => value.show(data?.[Number(colDef.colId)], colDef.headerName ?? ""),
    });
    this.fit(this.rows.slice(0, MEASURED_ROWS));
    if (this.isComplete) this.tools.complete();
  }

  private fit(rows: Cell[][]): void {
    if (!rows.length) return;
    const widths = this.heads.map(({ name, type }, index) =>
      fittingWidth(
        name,
        type,
        rows.map((row) => textOf(row[index])),
      ),
    );
    this.grid?.applyColumnState({ state: widths.map((width, index) => ({ colId: String(index), width })) });
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

const columnDefinition = ({ name, type }: ColumnHead, index: number): ColDef<Cell[]> => ({
  colId: String(index),
  headerName: name,
  sortable: false,
  ...(NUMBERS.test(type) ? { type: "right" } : {}),
  headerComponentParams: { innerHeaderComponent: Heading, innerHeaderComponentParams: { type } },
  valueGetter: ({ data }) => data?.[index],
  cellRenderer: ({ data }: { data?: Cell[] }) => oneLine(data?.[index] ?? null),
  suppressKeyboardEvent: ({ event }) => {
    if (event.key === " ") event.preventDefault();
    return ["/", "?", " "].includes(event.key);
  },
});

function onCellKey({ event, data, colDef }: CellKeyDownEvent<Cell[]>, value: Value): void {
  if (!(event instanceof KeyboardEvent)) return;
  const cell = data?.[Number(colDef.colId)];
  const show = (): void => value.show(cell, colDef.headerName ?? "");
  const act = { " ": show, Enter: show, Escape: () => value.close(), "Ctrl+c": () => void copyCell(cell) }[
    keyName(event)
  ];
  if (!act) return;
  event.preventDefault();
  act();
}

async function copyCell(cell: Cell | undefined): Promise<void> {
  if (!isCut(cell)) {
    await copyText(plain(cell));
    return;
  }
  await navigator.clipboard.writeText(cell.cut);
  announce(`Copied the first ${number([...cell.cut].length)} of ${number(cell.length)} characters.`);
}

/** The panel that shows a value with all its lines. Of a cut value it shows the part that the response holds. */
class Value {
  readonly element = h("aside.panel", { "aria-label": "Value", hidden: true });

  show(cell: Cell | undefined, name: string): void {
    const close = button("×", () => this.close(), { "aria-label": "Close value", class: "quiet" });
    const value = isCut(cell)
      ? [
          h("p.muted", `The first ${number([...cell.cut].length)} of ${number(cell.length)} characters`),
          whole(cell.cut),
        ]
      : whole(cell ?? null);
    this.element.hidden = false;
    replace(this.element, h("header", h("h2", name), h("span.grow"), close), h("div.body", value));
  }

  close(): void {
    this.element.hidden = true;
  }
}
