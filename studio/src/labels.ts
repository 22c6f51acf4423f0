// The names of rows, `Ana Conceição` beside 15. They come with the pages of rows and with what a search finds.

import { get, type Table } from "./api.ts";
import { h, memory } from "./dom.ts";
import { visible } from "./values.ts";

const LIMIT = 20_000;
const known = new Map<string, string | null>();
const place = (table: string, key: string): string => `${table} ${key}`;

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

/** Remember names by table and key. */
export function rememberLabels(names: Record<string, Record<string, string>>): void {
  for (const [table, rows] of Object.entries(names))
    for (const [key, label] of Object.entries(rows)) rememberLabel(table, key, label);
}

export const labelOf = (table: string, key: string): string | null => known.get(place(table, key)) ?? null;

/** Return the name of the row that a value refers to. */
export function referenceLabel(table: Table, column: string, value: unknown): string | null {
  const target = table.columns.find(({ name }) => name === column)?.references;
  return target && typeof value === "string" ? labelOf(target.table, value) : null;
}

/** Read the names of rows that are not known yet. Without an answer they stay unknown. */
export async function readLabels(table: string, keys: Iterable<string>): Promise<void> {
  const missing = [...new Set(keys)].filter((key) => !known.has(place(table, key))).slice(0, 500);
  if (!missing.length) return;
  const path = `/api/names/${encodeURIComponent(table)}`;
  const names = await get<Record<string, string>>(path, { keys: JSON.stringify(missing) }).catch(() => ({}));
  for (const key of missing) rememberLabel(table, key, (names as Record<string, string>)[key] ?? null);
}

/** Draw a name to be put after its key; nothing for a row without one. */
export const drawLabel = (label: string | null, key?: string): HTMLElement | false =>
  label !== null && label !== key && h("span.label", " · ", h("bdi", visible(label)));
