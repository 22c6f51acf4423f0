// The names of rows, `Ana Conceição` beside 15. They come with the pages of rows and with what a search finds.

import { type Column, get, type Table } from "./api.ts";
import { h, memory } from "./dom.ts";
import { encodedName } from "./names.ts";
import { visible } from "./values.ts";

const LIMIT = 20_000;
const known = new Map<string, string | null>();
const place = (table: string, key: string): string => `${table} ${key}`;

/** Where the names of referenced rows are remembered: by their table, or also by the column if it is not the key. */
export const placeOf = ({ table, column, is_key }: NonNullable<Column["references"]>): string =>
  is_key ? table : `${table}/${encodedName(column)}`;

export const labels = {
  /** Whether the grid shows names beside keys. */
  get shown(): boolean {
    return memory.get("names", true);
  },
  set shown(value: boolean) {
    memory.set("names", value);
  },
};

export function rememberLabel(table: string, key: string, label: string | null): void {
  if (known.size > LIMIT) known.clear();
  known.set(place(table, key), label);
}

/** Remember names by place and key. */
export function rememberLabels(names: Record<string, Record<string, string>>): void {
  for (const [table, rows] of Object.entries(names))
    for (const [key, label] of Object.entries(rows)) rememberLabel(table, key, label);
}

export const labelOf = (table: string, key: string): string | null => known.get(place(table, key)) ?? null;

/** Return the name of the row that a value refers to. */
export function referenceLabel(table: Table, column: string, value: unknown): string | null {
  const target = table.columns.find(({ name }) => name === column)?.references;
  return target && typeof value === "string" ? labelOf(placeOf(target), value) : null;
}

/** Read the names of rows that are not known yet. Without an answer they stay unknown. */
export async function readLabels(table: string, keys: Iterable<string>): Promise<void> {
  const missing = [...new Set(keys)].filter((key) => !known.has(place(table, key))).slice(0, 500);
  if (!missing.length) return;
  const [name = "", column] = table.split("/");
  const names = await get<Record<string, string>>(`/api/names/${encodeURIComponent(name)}`, {
    column: column && decodeURIComponent(column),
    keys: JSON.stringify(missing),
  }).catch(() => ({}));
  for (const key of missing) rememberLabel(table, key, (names as Record<string, string>)[key] ?? null);
}

/** Draw a name to be put after its key; nothing for a row without one. */
export const drawLabel = (label: string | null, key?: string): HTMLElement | false =>
  label !== null && label !== key && h("span.label", " · ", h("bdi", visible(label)));
