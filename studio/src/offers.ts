// Which row a text means that was typed into the editor of a reference.

import type { Whole } from "./api.ts";

export type Offer = { key: string; label: string | null };
export type Choice = { value: Whole } | { problem: string };

/** Return the value that a typed text stands for: a key, or the only row that is offered. */
export function chosenOf(typed: string, kind: string, table: string, offers: Offer[]): Choice {
  if (typed === "") return { value: kind === "text" ? "" : null };
  const isKey = kind === "integer" ? /^[+-]?\d+$/.test(typed) : offers.some(({ key }) => key === typed);
  if (isKey) return { value: typed };
  const [only, another] = offers;
  if (another) return { problem: `${offers.length} rows of ${table} are offered for “${typed}”: choose one.` };
  if (only) return { value: only.key };
  // A text may be the key of a row that is staged and not saved yet.
  return kind === "integer" ? { problem: `“${typed}” names no row of ${table}.` } : { value: typed };
}
