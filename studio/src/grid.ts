// AG Grid with the studio's theme and keys, for the rows of a table and for query results.

import {
  CellApiModule,
  CellStyleModule,
  ClientSideRowModelApiModule,
  ClientSideRowModelModule,
  ColumnApiModule,
  ColumnAutoSizeModule,
  CustomEditorModule,
  createGrid,
  EventApiModule,
  type GridApi,
  type GridOptions,
  type IHeaderParams,
  ModuleRegistry,
  RenderApiModule,
  RowApiModule,
  RowSelectionModule,
  RowStyleModule,
  ScrollApiModule,
  themeQuartz,
} from "ag-grid-community";
import { cspNonce, h } from "./dom.ts";

ModuleRegistry.registerModules([
  CellApiModule,
  CellStyleModule,
  ClientSideRowModelApiModule,
  ClientSideRowModelModule,
  ColumnApiModule,
  ColumnAutoSizeModule,
  CustomEditorModule,
  EventApiModule,
  RenderApiModule,
  RowApiModule,
  RowSelectionModule,
  RowStyleModule,
  ScrollApiModule,
]);

const theme = themeQuartz.withParams({
  accentColor: "var(--accent)",
  backgroundColor: "var(--surface)",
  foregroundColor: "var(--text)",
  borderColor: "var(--line)",
  chromeBackgroundColor: "var(--chrome)",
  headerBackgroundColor: "var(--chrome)",
  headerTextColor: "var(--text)",
  oddRowBackgroundColor: "var(--stripe)",
  rowHoverColor: "var(--hover)",
  selectedRowBackgroundColor: "var(--chosen)",
  columnBorder: { color: "var(--faint)" },
  rowBorder: { color: "var(--faint)" },
  wrapperBorder: false,
  wrapperBorderRadius: 0,
  browserColorScheme: "inherit",
  fontFamily: "inherit",
  fontSize: 13,
  headerFontWeight: 600,
  spacing: 4,
  cellHorizontalPadding: 8,
  rowHeight: 28,
  headerHeight: 42,
  iconSize: 13,
});

/** A column heading: the name, with the type below it. */
export class Heading {
  private readonly element = h("div.heading");
  init({ displayName, type, mark }: IHeaderParams & { type?: string; mark?: string }): void {
    this.element.append(
      h(
        "span.name",
        displayName,
        mark
          ? h(
              "span.mark",
              { title: mark === "key" ? "Primary key" : `References ${mark}` },
              mark === "key" ? " ◆" : " →",
            )
          : "",
      ),
      h("span.type", type ?? ""),
    );
  }
  getGui(): HTMLElement {
    return this.element;
  }
  refresh(): boolean {
    return false;
  }
}

export function makeGrid<Row>(element: HTMLElement, options: GridOptions<Row>): GridApi<Row> {
  return createGrid(element, {
    theme,
    ...(cspNonce() ? { styleNonce: cspNonce() } : {}),
    suppressDragLeaveHidesColumns: true,
    animateRows: false,
    // Tab leaves the grid, because passing through a thousand cells would trap the keyboard; arrows move inside it.
    tabToNextCell: ({ editing, nextCellPosition }) => (editing && nextCellPosition ? nextCellPosition : false),
    columnTypes: { right: { cellClass: "right", headerClass: "right" } },
    ...options,
    defaultColDef: { resizable: true, minWidth: 60, suppressHeaderMenuButton: true, ...options.defaultColDef },
  });
}

const canvas = document.createElement("canvas").getContext("2d");

/** Return a width in pixels that fits a column's heading and its texts, between 70 and 320. */
export function fittingWidth(name: string, type: string, texts: string[]): number {
  if (!canvas) return 160;
  const font = getComputedStyle(document.body).fontFamily;
  canvas.font = `600 13px ${font}`;
  const heading = canvas.measureText(name).width + 58;
  canvas.font = `11px ${font}`;
  const under = canvas.measureText(type).width + 20;
  canvas.font = `13px ${font}`;
  const content = Math.max(0, ...texts.slice(0, 40).map((text) => canvas.measureText(text.slice(0, 60)).width + 22));
  return Math.ceil(Math.min(320, Math.max(70, heading, under, content)));
}
