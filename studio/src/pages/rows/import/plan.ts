// The plan of an import: how to read the file, and where its values go.

import type { Column } from "../../../api.ts";

/** What the server found at the beginning of a file. */
export type Sample = {
  form: "csv" | "json";
  encoding: string;
  separator: string | null;
  names: string[];
  rows: string[][];
  /** Whether values have the apostrophe of an export that makes formulas harmless. */
  harmless: boolean;
  /** The columns of each unique key of the table. */
  keys: string[][];
};

export type Assignment = { column: string; source?: number | string; value?: string | null };

/** How to read the file; what is left out is found out from it. */
export type Reading = {
  form?: string;
  encoding?: string;
  separator?: string;
  quote: string;
  header: boolean;
  empty: string;
  null_mark: string;
  harmless: boolean;
};

/** What happens to rows that the table has already. */
export type Existing = { existing: string; key: string[] };

/** Fold a name, so that `Início` and `inicio` are the same. */
export const folded = (name: string): string =>
  name
    .normalize("NFD")
    .replace(/\p{M}/gu, "")
    .toLowerCase()
    .replace(/[^\p{L}\p{N}]/gu, "");

/** Return the column for each name in the file, or null if none has its name. Each column is found once. */
export function matched(names: string[], columns: Column[]): (string | null)[] {
  const free = new Map(columns.map(({ name }) => [folded(name), name]));
  return names.map((name) => {
    const found = free.get(folded(name)) ?? null;
    free.delete(folded(name));
    return found;
  });
}

/** Return the assignments of a mapping, by place in a CSV file and by key in JSON. */
export const assignments = ({ form, names }: Sample, mapping: (string | null)[]): Assignment[] =>
  mapping.flatMap((column, index) =>
    column === null ? [] : [{ column, source: form === "csv" ? index : (names[index] ?? "") }],
  );

/** Return the names in the file, and the columns that must have a value, that go nowhere and get none. */
export function leftOut(
  names: string[],
  mapping: (string | null)[],
  constants: Assignment[],
  columns: Column[],
): { names: string[]; required: string[] } {
  const used = new Set([...mapping, ...constants.map(({ column }) => column)]);
  return {
    names: names.filter((_, index) => mapping[index] === null),
    required: columns
      .filter(({ name, nullable, default: filled }) => !nullable && filled === null && !used.has(name))
      .map(({ name }) => name),
  };
}
