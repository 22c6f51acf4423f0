// Pastes the clipboard: one value into the focused cell, or a block of a spreadsheet over the cells from it.

import type { GridApi } from "ag-grid-community";
import type { Column, Table } from "../../api.ts";
import { parseBlock } from "../../block.ts";
import { announce } from "../../dom.ts";
import { writable } from "../../session.ts";
import { canEdit, type Row } from "./cells.ts";
import { copiedValue } from "./copied.ts";
import { focused, put } from "./edits.ts";
import { previewPaste } from "./paste-preview.ts";
import { pastedCell } from "./pasted.ts";

export function paste(table: Table, grid: GridApi<Row>, event: ClipboardEvent): void {
  const { row, column } = focused(table, grid);
  const text = event.clipboardData?.getData("text/plain");
  if (!text || !row || !column || grid.getEditingCells().length || !writable()) return;
  const isSheet = /<table[\s>]/i.test(event.clipboardData?.getData("text/html") ?? "");
  const block = parseBlock(text);
  const isBlock = block.length > 1 || (block[0]?.length ?? 0) > 1;
  // A text with tabs or lines that was copied from a cell of the studio is one value; of another, the preview asks.
  if (isBlock && text !== copiedValue()) {
    event.preventDefault();
    previewPaste(table, grid, block, () => canEdit(table, row, column) && pasteValue(table, row, column, text));
  } else if (canEdit(table, row, column)) {
    event.preventDefault();
    pasteValue(table, row, column, (isSheet && block[0]?.[0]) || text);
  }
}

/** Stage a text, unchanged, for a cell. */
function pasteValue(table: Table, row: Row, column: Column, text: string): void {
  const { value, problem } = pastedCell(column, text, null, "text");
  if (value === undefined) announce(`${column.name}: ${problem}`);
  else put(table, row, column, column.kind === "array" ? value : text);
}
