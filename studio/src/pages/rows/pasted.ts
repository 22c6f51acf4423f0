// The cells that a pasted block would change: what becomes of each, before anything is staged.

import { type Cell, type Column, isCut, type Whole } from "../../api.ts";
import { parseList } from "../../block.ts";
import { same } from "../../text.ts";

/** What an empty cell of the block means. */
export type Empty = "leave" | "null" | "text";

export type PastedCell = {
  column: Column;
  text: string;
  before: Cell | undefined;
  /** The value to stage; undefined if the cell stays as it is. */
  value: Whole | undefined;
  /** The reason why the value does not fit. */
  problem?: string;
};

/** Decide what a cell of the block does to a cell of the table; PostgreSQL checks the value later. */
export function pastedCell(column: Column, text: string, before: Cell | undefined, empty: Empty): PastedCell {
  const cell: PastedCell = { column, text, before, value: undefined };
  if (text === "" && empty === "leave") return cell;
  if (text === "" && empty === "null") return column.nullable ? { ...cell, value: null } : withProblem(cell);
  if (column.kind === "array" && text !== "") {
    const list = parseList(text);
    return list ? { ...cell, value: list } : { ...cell, problem: 'a list is written as {a,b} or ["a", "b"]' };
  }
  return { ...cell, value: column.kind === "text" ? text : text.trim() };
}

const withProblem = (cell: PastedCell): PastedCell => ({ ...cell, problem: `${cell.column.name} cannot be NULL` });

export const changesCell = ({ value, before, problem }: PastedCell): boolean =>
  value !== undefined && problem === undefined && (isCut(before) || !same(before ?? null, value));
