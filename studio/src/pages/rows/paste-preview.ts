// The preview of a pasted block: which cells change, and which do not fit. PostgreSQL checks the values.

import type { GridApi } from "ag-grid-community";
import { asRefused, type Cell, isCut, post, type Table, type Whole } from "../../api.ts";
import { shownValue as shown } from "../../changes/diff.ts";
import { change, changeOf, toWire } from "../../changes/staged.ts";
import { announce, button, dialog, h, plural, replace } from "../../dom.ts";
import { problemBox } from "../../parts.ts";
import { canEdit, columnNamed, type Row, shownValue } from "./cells.ts";
import { put, readWhole } from "./edits.ts";
import { changesCell, type Empty, type PastedCell, pastedCell } from "./pasted.ts";

type Line = { row: Row; cells: PastedCell[] };
type Checked = {
  rows: { row: Record<string, Cell> }[];
  errors: { index: number; column: string | null; what: string }[];
};

const SHOWN_LINES = 100;
const EMPTY: [Empty, string][] = [
  ["leave", "Leave the value as it is"],
  ["null", "NULL"],
  ["text", "Empty text"],
];

/** Show what a block does to the cells from the focused one on. `asOneText` pastes it into that cell instead. */
export function previewPaste(table: Table, grid: GridApi<Row>, block: string[][], asOneText: () => void): void {
  void new PastePreview(table, grid, block, asOneText).check();
}

class PastePreview {
  private readonly table: Table;
  private readonly grid: GridApi<Row>;
  private readonly block: string[][];
  private readonly first: { row: number; column: string };
  private readonly box: HTMLDialogElement;
  private readonly summary = h("p", { role: "status" });
  private readonly place = h("div.scroll", { tabindex: 0, role: "region", "aria-label": "Cells" });
  private readonly stage = button("Stage", () => this.accept(), { class: "primary", disabled: true });
  private readonly empty: HTMLSelectElement;
  private lines: Line[] = [];
  private checks = 0;

  constructor(table: Table, grid: GridApi<Row>, block: string[][], asOneText: () => void) {
    this.table = table;
    this.grid = grid;
    this.block = block;
    const cell = grid.getFocusedCell();
    this.first = { row: cell?.rowIndex ?? 0, column: cell?.column.getColId() ?? "" };
    const options = EMPTY.map(([value, text]) => h("option", { value }, text));
    this.empty = h("select", { onchange: () => void this.check() }, options);
    const asText = button("Paste as one text", () => {
      this.box.close();
      asOneText();
    });
    const footer = h(
      "footer",
      asText,
      h("span.grow"),
      button("Cancel", () => this.box.close()),
      this.stage,
    );
    const choice = h("label.row", "Empty cells", this.empty);
    this.box = dialog("Paste a block", [this.summary, choice, this.place, footer], { class: "wide paste" });
    this.box.addEventListener("close", () => this.checks++);
  }

  /** Read the block again, and ask PostgreSQL which values fit. Nothing is saved. */
  async check(): Promise<void> {
    const asked = ++this.checks;
    this.stage.disabled = true;
    this.summary.textContent = "PostgreSQL checks the values…";
    this.plan();
    try {
      await this.readBefore();
      // A row that is rejected names one of its values at a time.
      while (asked === this.checks && (await this.findProblem()));
    } catch (error) {
      replace(this.place, problemBox(asRefused(error).problem));
      return;
    }
    if (asked === this.checks) this.draw();
  }

  private plan(): void {
    const shownColumns = this.grid.getAllDisplayedColumns().map((column) => column.getColId());
    const columns = shownColumns.slice(shownColumns.indexOf(this.first.column));
    this.lines = [];
    for (const [index, texts] of this.block.entries()) {
      const row = this.grid.getDisplayedRowAtIndex(this.first.row + index)?.data;
      if (!row) return;
      const cells: PastedCell[] = [];
      for (const [at, text] of texts.entries()) {
        const column = columnNamed(this.table, columns[at]);
        if (!column) break;
        const cell = pastedCell(column, text, shownValue(this.table, row, column), this.empty.value as Empty);
        const isLocked = !isCut(cell.before) && !canEdit(this.table, row, column);
        cells.push(isLocked ? { ...cell, problem: "this cell cannot be edited" } : cell);
      }
      this.lines.push({ row, cells });
    }
  }

  private async readBefore(): Promise<void> {
    for (const { row, cells } of this.lines)
      for (const { column } of cells.filter(changesCell)) await readWhole(this.table, row, column);
  }

  /** Let PostgreSQL try the changes. Returns true if it rejected values, which are left out from then on. */
  private async findProblem(): Promise<boolean> {
    const lines = this.lines.filter(({ cells }) => cells.some(changesCell));
    if (!lines.length) return false;
    const changes = lines.map((line) => this.wireOf(line));
    const { rows, errors } = await post<Checked>("/api/changes", { changes, check: true });
    for (const { index, column, what } of errors) {
      const cells = lines[index]?.cells.filter(changesCell) ?? [];
      const blamed = cells.filter((cell) => cell.column.name === column);
      for (const cell of blamed.length ? blamed : cells) cell.problem = what;
    }
    if (errors.length) return true;
    for (const [index, { cells }] of lines.entries()) takeStored(cells, rows[index]?.row ?? {});
    return false;
  }

  private wireOf({ row, cells }: Line): object {
    const changed = cells.filter(changesCell);
    const values = Object.fromEntries(changed.map(({ column, value }) => [column.name, value as Whole]));
    const staged = changeOf(this.table.name, row.key);
    const was = Object.fromEntries(
      changed.map(({ column }) => [column.name, (row.cells[column.name] ?? null) as Whole]),
    );
    const base = { table: this.table.name, key: row.key, errors: {} };
    return row.isNew
      ? toWire({ ...base, op: "insert", values: { ...staged?.values, ...values }, was: {} })
      : toWire({ ...base, op: "update", values, was });
  }

  private draw(): void {
    const cells = this.lines.flatMap((line) => line.cells);
    const changed = cells.filter(changesCell).length;
    const bad = cells.filter(({ problem }) => problem !== undefined).length;
    const outside = this.block.flat().length - cells.length;
    this.summary.textContent = [
      `${plural(changed, "cell")} ${changed === 1 ? "changes" : "change"}`,
      bad ? `${plural(bad, "cell")} ${bad === 1 ? "does" : "do"} not fit` : "",
      outside
        ? `${plural(outside, "cell")} beyond the last row or column of the page ${outside === 1 ? "is" : "are"} left out`
        : "",
    ]
      .filter(Boolean)
      .join(", ");
    this.stage.textContent = `Stage ${plural(changed, "cell")}`;
    this.stage.disabled = changed === 0;
    const drawn = this.lines.filter((line, index) => index < SHOWN_LINES || line.cells.some(({ problem }) => problem));
    const left = this.lines.length - drawn.length;
    replace(this.place, drawTable(drawn), left > 0 && h("p.muted", `and ${plural(left, "row")} more`));
    this.stage.focus();
  }

  private accept(): void {
    let count = 0;
    change(() => {
      for (const { row, cells } of this.lines)
        for (const cell of cells.filter(changesCell)) {
          put(this.table, row, cell.column, cell.value as Whole);
          count++;
        }
    });
    this.box.close();
    announce(`${plural(count, "cell")} staged. Ctrl+Z undoes it.`);
  }
}

/** Show and stage the values as PostgreSQL stores them: `2026-11-26 10:00:00` for `26/11/2026 10:00`. */
function takeStored(cells: PastedCell[], stored: Record<string, Cell>): void {
  for (const cell of cells.filter(changesCell)) {
    const value = stored[cell.column.name];
    if (value !== undefined && !isCut(value)) cell.value = value;
  }
}

function drawTable(lines: Line[]): HTMLElement {
  const columns = lines.reduce<PastedCell[]>((most, { cells }) => (cells.length > most.length ? cells : most), []);
  const headings = ["Row", ...columns.map(({ column }) => column.name)].map((text) => h("th", { scope: "col" }, text));
  return h(
    "table.pasted",
    h("thead", h("tr", headings)),
    h(
      "tbody",
      lines.map(({ row, cells }) =>
        h("tr", h("th", { scope: "row" }, row.isNew ? "new row" : row.key), cells.map(drawCell)),
      ),
    ),
  );
}

function drawCell(cell: PastedCell): HTMLElement {
  const { before, value, text, problem } = cell;
  if (problem !== undefined) return h("td.bad", shown(text), h("p.wrong", problem));
  if (!changesCell(cell)) return h("td.muted", shown(before));
  return h("td", h("del", shown(before)), " ", h("ins", shown(value)));
}
