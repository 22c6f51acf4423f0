// The staged changes: edits that are not saved yet. They stay while pages change, and every step can be undone.

import { type Cell, isCut, type Whole } from "../api.ts";
import { shownKey, shownName } from "../names.ts";
import { same } from "../text.ts";

export type Change = {
  table: string;
  op: "update" | "insert" | "delete";
  /** The row's key, or a temporary name for a new row. */
  key: string;
  /** The new values by column; empty for a deletion. */
  values: Record<string, Whole>;
  /** The values that were shown before the edit, by column. A save fails if the database has others by then. */
  was: Record<string, Whole>;
  /** The reasons for which the database rejected a value, by column. */
  errors: Record<string, string>;
  /** The reason for which it rejected the change as a whole. */
  error?: string;
};

export type ChangeError = { index: number; column: string | null; what: string };

export const NO_HISTORY =
  "The studio keeps no history: neither earlier values nor the author of a saved change are recorded.";

/** All staged changes by table and key, in the order in which they were made. */
export const changes = new Map<string, Change>();

const listeners = new Set<() => void>();
const STEPS = 100;
const past: string[] = [];
let newRows = 0;
let isInStep = false;

/** Call `listener` whenever the staged changes change. Returns a function that stops it. */
export function onChanges(listener: () => void): () => void {
  listeners.add(listener);
  return () => void listeners.delete(listener);
}

function notify(): void {
  for (const listener of listeners) listener();
}

const place = (table: string, key: string): string => `${table}/${key}`;

/** Apply a step to the staged changes so that `undo` can revert it. Steps inside a step are a part of it. */
export function change(step: () => void): void {
  if (isInStep) {
    step();
    return;
  }
  past.push(JSON.stringify([...changes]));
  if (past.length > STEPS) past.shift();
  isInStep = true;
  try {
    step();
  } finally {
    isInStep = false;
    notify();
  }
}

export const changeOf = (table: string, key: string): Change | undefined => changes.get(place(table, key));

/** Return the new rows of a table, the latest first. */
export const inserted = (table: string): Change[] =>
  [...changes.values()].filter(({ op, table: other }) => op === "insert" && other === table).reverse();

export const isRejected = ({ error, errors }: Change): boolean => error !== undefined || Object.keys(errors).length > 0;

/** Stage a value for a cell. Staging the original value removes the change. */
export function stage(table: string, key: string, column: string, was: Whole, value: Whole): void {
  change(() => {
    const staged = changeOf(table, key) ?? { table, op: "update", key, values: {}, was: {}, errors: {} };
    changes.set(place(table, key), staged);
    delete staged.errors[column];
    if (!Object.keys(staged.errors).length) delete staged.error;
    staged.values[column] = value;
    if (staged.op === "insert") return;
    if (!(column in staged.was)) staged.was[column] = was;
    if (same(staged.was[column], value)) forgetColumn(staged, column);
  });
}

function forgetColumn(staged: Change, column: string): void {
  delete staged.values[column];
  delete staged.was[column];
  delete staged.errors[column];
  if (staged.op === "update" && !Object.keys(staged.values).length) changes.delete(place(staged.table, staged.key));
}

/** Stage a new row and return its temporary key. */
export function stageInsert(table: string): string {
  const key = `new ${++newRows}`;
  change(() => changes.set(place(table, key), { table, op: "insert", key, values: {}, was: {}, errors: {} }));
  return key;
}

/** Stage the deletion of a row. Staging it again removes the deletion; deleting a new row removes that row. */
export function stageDelete(table: string, key: string, row: Record<string, Cell>): void {
  const before = changeOf(table, key);
  change(() => {
    changes.delete(place(table, key));
    if (before?.op === "delete" || before?.op === "insert") return;
    const was = Object.fromEntries(Object.entries(row).filter((entry): entry is [string, Whole] => !isCut(entry[1])));
    changes.set(place(table, key), { table, op: "delete", key, values: {}, was, errors: {} });
  });
}

/** Stage the deletion of rows, in one step. If all of them are staged for deletion, this removes the deletions. */
export function stageDeletions(table: string, rows: { key: string; cells: Record<string, Cell> }[]): void {
  const isStaged = (key: string): boolean => changeOf(table, key)?.op === "delete";
  const left = rows.filter(({ key }) => !isStaged(key));
  change(() => {
    for (const { key, cells } of left.length ? left : rows) stageDelete(table, key, cells);
  });
}

/** Undo the last step. Returns false if there is none. */
export function undo(): boolean {
  const before = past.pop();
  if (before === undefined) return false;
  changes.clear();
  for (const [name, staged] of JSON.parse(before) as [string, Change][]) changes.set(name, staged);
  notify();
  return true;
}

export const discard = ({ table, key }: Change): void => change(() => changes.delete(place(table, key)));

export const discardAll = (): void => change(() => changes.clear());

/** Resolve a conflict with the value in the database: drop one column of the change, or all of it. */
export function takeTheirs(staged: Change, column: string | undefined): void {
  if (column === undefined || staged.op !== "update") discard(staged);
  else change(() => forgetColumn(staged, column));
}

/** Resolve a conflict with the staged value. The next save expects `now` in the database. */
export function keepMine(staged: Change, column: string | undefined, now: Whole): void {
  change(() => {
    if (column !== undefined) staged.was[column] = now;
  });
}

/** Record the reasons for which the database rejected some of the changes in `sent`. */
export function reject(sent: Change[], errors: ChangeError[]): void {
  for (const { index, column, what } of errors) {
    const change = sent[index];
    const staged = change && changeOf(change.table, change.key);
    if (!staged) continue;
    if (column) staged.errors[column] = what;
    else staged.error = what;
  }
  notify();
}

const savedRows = new Map<string, string[]>();

/** Return the keys of the new rows of a table that were saved since the last call. */
export function takeSavedRows(table: string): string[] {
  const keys = savedRows.get(table) ?? [];
  savedRows.delete(table);
  return keys;
}

/**
 * Drop what a save has written, as it was sent; the rows got these keys. What was staged meanwhile stays, with the saved
 * values as those before it. This cannot be undone.
 */
export function forgetSaved(sent: Change[], keys: string[]): void {
  sent.forEach((saved, index) => {
    const { op, table } = saved;
    const key = keys[index] ?? saved.key;
    const now = changeOf(table, saved.key);
    if (op === "insert") savedRows.set(table, [...(savedRows.get(table) ?? []), key]);
    if (!now) return;
    changes.delete(place(table, saved.key));
    const later = op === "delete" ? null : stagedSince(saved, now, key);
    if (later) changes.set(place(table, key), later);
  });
  past.length = 0;
  notify();
}

/** Return what of a change is not saved yet, as a change of the saved row. */
function stagedSince(saved: Change, now: Change, key: string): Change | null {
  if (now.op === "delete") return { ...now, key, was: { ...now.was, ...saved.values } };
  const isLater = (column: string): boolean =>
    !(column in saved.values) || !same(saved.values[column] ?? null, now.values[column] ?? null);
  const later = Object.entries(now.values).filter(([column]) => isLater(column));
  if (!later.length) return null;
  const was = later.map(([column]) => [column, saved.values[column] ?? now.was[column] ?? null]);
  return { ...now, op: "update", key, values: Object.fromEntries(later), was: Object.fromEntries(was) };
}

/** Convert a change to the form that the server expects. */
export function toWire({ op, table, key, values, was }: Change): object {
  if (op === "insert") return { op, table, values };
  return op === "update" ? { op, table, key, values, was } : { op, table, key, was };
}

export const changeName = ({ op, table, key }: Change): string =>
  op === "insert" ? `${shownName(table)}: new row` : `${shownName(table)} ${shownKey(key)}`;
