// The values that other rows have in a column of texts: which of them are offered for a typed text, and what is said.

/** `dates` means that the column holds dates as texts, such as 2026-11-26. */
export type InUse = { values: string[]; dates: boolean };

const plain = (text: string): string => text.trim().normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();

/** Return the values that contain the typed text without case and accents; if none does, all of them. */
export function offeredOf({ values }: InUse, typed: string): string[] {
  const found = values.filter((value) => plain(value).includes(plain(typed)));
  return found.length ? found : values;
}

/** Say that no other row has the typed value; nothing is forced. */
export function noteOf({ values }: InUse, typed: string): string {
  if (!values.length || typed.trim() === "" || values.includes(typed)) return "";
  const other = values.find((value) => plain(value) === plain(typed));
  if (other !== undefined) return `Other rows have “${other}”.`;
  // The text may become one of the values that are offered.
  return values.some((value) => plain(value).includes(plain(typed))) ? "" : `No other row has “${typed}”.`;
}
