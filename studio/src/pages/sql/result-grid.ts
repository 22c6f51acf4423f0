// The rows of a result as a grid, with a panel for a whole value. It is loaded with the first result.

import type { CellKeyDownEvent, ColDef, GridApi } from "ag-grid-community";
import { type Cell, isCut } from "../../api.ts";
import { announce, button, copyText, h, number, replace } from "../../dom.ts";
import { fittingWidth, Heading, makeGrid } from "../../grid.ts";
import { keyName } from "../../keys.ts";
import { plain, textOf } from "../../text.ts";
import { oneLine, whole } from "../../values.ts";
import type { ColumnHead } from "./stream.ts";

/** The rows by which the columns of a grid get their widths. */
const MEASURED_ROWS = 500;
/** The types whose values are right-aligned. */
const NUMBERS = /^(smallint|integer|bigint|numeric|real|double precision|int2|int4|int8|float4|float8)\b/;

export class ResultGrid {
  private readonly api: GridApi<Cell[]>;
  private readonly heads: ColumnHead[];
  private isFitted = false;

  constructor(parent: HTMLElement, heads: ColumnHead[], rows: Cell[][]) {
    const place = h("div.result-grid");
    const value = new Value();
    parent.append(place, value.element);
    this.heads = heads;
    this.api = makeGrid<Cell[]>(place, {
      columnDefs: heads.map(columnDefinition),
      rowData: [...rows],
      overlayNoRowsTemplate: "<span>No rows</span>",
      onCellKeyDown: (event) => onCellKey(event as CellKeyDownEvent<Cell[]>, value),
      onCellDoubleClicked: ({ data, colDef }) => value.show(data?.[Number(colDef.colId)], colDef.headerName ?? ""),
    });
    this.fit(rows.slice(0, MEASURED_ROWS));
  }

  add(rows: Cell[][]): void {
    this.api.applyTransaction({ add: rows });
    this.fit(rows);
  }

  destroy(): void {
    this.api.destroy();
  }

  private fit(rows: Cell[][]): void {
    if (this.isFitted || !rows.length) return;
    this.isFitted = true;
    const widths = this.heads.map(({ name, type }, index) =>
      fittingWidth(
        name,
        type,
        rows.map((row) => textOf(row[index])),
      ),
    );
    this.api.applyColumnState({ state: widths.map((width, index) => ({ colId: String(index), width })) });
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
