// The results of a statement: rows as they arrive, a plan, notices, or an error.

import type { CellKeyDownEvent, ColDef, GridApi } from "ag-grid-community";
import { type Cell, isCut } from "../../api.ts";
import { announce, button, copyText, h, number, replace } from "../../dom.ts";
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
import type { ColumnHead, SqlProblem } from "./stream.ts";

/** The types whose values are right-aligned. */
const NUMBERS = /^(smallint|integer|bigint|numeric|real|double precision|int2|int4|int8|float4|float8)\b/;

export class Results {
  readonly element = h("div.results");
  private grid: GridApi<Cell[]> | null = null;
  private heads: ColumnHead[] = [];
  private count = 0;
  private view: ResultView | null = null;
  private tools: ResultTools | null = null;

  clear(): void {
    this.grid?.destroy();
    this.grid = null;
    this.count = 0;
    this.tools?.destroy();
    this.tools = null;
    replace(this.element);
  }

  showColumns(heads: ColumnHead[], about: { name: string; statement: string }, store: ChartStore): void {
    const place = h("div.result-grid");
    const value = new Value();
    const split = h("div.split", place, value.element);
    this.view = { ...about, heads, rows: [], hasMore: false };
    this.tools = new ResultTools(this.view, split, store);
    replace(this.element, heads.length > 0 && this.tools.element, split);
    this.heads = heads;
    this.grid = makeGrid<Cell[]>(place, {
      columnDefs: heads.map(columnDefinition),
      rowData: [],
      overlayNoRowsTemplate: "<span>No rows</span>",
      onCellKeyDown: (event) => onCellKey(event as CellKeyDownEvent<Cell[]>, value),
      onCellDoubleClicked: ({ data, colDef }) => value.show(data?.[Number(colDef.colId)], colDef.headerName ?? ""),
    });
  }

  addRows(rows: Cell[][]): void {
    this.grid?.applyTransaction({ add: rows });
    for (const row of rows) this.view?.rows.push(row);
    if (this.count === 0) this.fit(rows);
    this.count += rows.length;
  }

  /** Show what needs all rows. */
  complete(hasMore: boolean): void {
    if (this.view) this.view.hasMore = hasMore;
    this.tools?.complete();
  }

  showPlan(plan: Plan, measured: boolean): void {
    replace(this.element, planTable(plan, measured));
  }

  showNotices(notices: string[]): void {
    const items = notices.map((notice) => h("li", notice));
    if (items.length) this.element.prepend(h("ul.plain.notices", items));
  }

  showProblem({ what, hint, means, fix, code }: SqlProblem, place: Place | null): void {
    const link = place && button(`Line ${place.line}, column ${place.column}`, place.goTo, { class: "inline" });
    const lines = [link, hint && `Hint: ${hint}`, means, fix].filter((line) => !!line);
    this.element.prepend(
      h(
        "div.problem",
        { role: "alert" },
        h("strong", what),
        lines.map((line) => h("p", line)),
        code && h("p.muted", `SQLSTATE ${code}`),
      ),
    );
  }

  private fit(rows: Cell[][]): void {
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
