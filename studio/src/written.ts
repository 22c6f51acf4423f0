// Rows written as text: CSV, tab-separated values, JSON, and an INSERT statement.

import type { Whole } from "./api.ts";

/** A column of a table or of a result, with the name of its type in PostgreSQL. */
export type Head = { name: string; type: string };
/** Values in the order of the columns; undefined is the default of a new row. */
export type Values = (Whole | undefined)[];

export type CsvOptions = {
  separator: "," | ";" | "\t";
  /** How NULL is written; an empty text is always written as `""`. */
  nulls: "" | "\\N";
  /** Put an apostrophe before a text that a spreadsheet would take for a formula. */
  harmless: boolean;
  /** Start with a byte order mark, by which Excel recognizes UTF-8. */
  mark: boolean;
};
export const PLAIN_CSV: CsvOptions = { separator: ",", nulls: "", harmless: false, mark: false };

const NUMBER = /^(smallint|integer|bigint|numeric|decimal|real|double precision|float[48]?|int[248]|oid)\b(?!.*\[\])/;
const UNQUOTED = /^(bool|boolean|date|time|timestamp|timestamptz|uuid)\b(?!.*\[\])/;
const JSON_NUMBER = /^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$/;
/**
 * The characters that OWASP lists, in both widths: a spreadsheet may compute a cell that starts with one of them. With
 * apostrophes before it too, so that an import can remove one of them again.
 */
const FORMULA = /^'*[=+\-@\t\r\n＝＋－＠]/;

export const isNumber = (type: string): boolean => NUMBER.test(type);

// --- CSV and tab-separated values -----------------------------------------------------------------------------------

const textOf = (value: Whole): string | null => (Array.isArray(value) ? arrayLiteral(value) : value);

/** Write a value as the server's exports do: texts are quoted, so that an empty one differs from NULL. */
function csvField(value: Whole | undefined, type: string, { separator, nulls, harmless }: CsvOptions): string {
  const text = textOf(value ?? null);
  if (text === null) return nulls;
  const isPlain = NUMBER.test(type) || UNQUOTED.test(type);
  const shown = harmless && !isPlain && FORMULA.test(text) ? `'${text}` : text;
  const isQuoted = !isPlain || shown.includes(separator) || /["\r\n]/.test(shown);
  return isQuoted ? quoted(shown) : shown;
}

const quoted = (text: string): string => `"${text.replaceAll('"', '""')}"`;

const headField = (name: string, { separator, harmless }: CsvOptions): string => {
  const shown = harmless && FORMULA.test(name) ? `'${name}` : name;
  return shown.includes(separator) || /["\r\n]/.test(shown) ? quoted(shown) : shown;
};

/** Write rows as the lines of a CSV file, each with its line end. The first line holds the names of the columns. */
export function* csvLines(heads: Head[], rows: Iterable<Values>, options: CsvOptions = PLAIN_CSV): Generator<string> {
  const line = (fields: string[]): string => `${fields.join(options.separator)}\r\n`;
  yield (options.mark ? "\ufeff" : "") + line(heads.map(({ name }) => headField(name, options)));
  for (const row of rows) yield line(heads.map(({ type }, index) => csvField(row[index], type, options)));
}

/** Write rows for a spreadsheet or another grid: without names, quoted only where a value contains a tab or a line end. */
export const tabSeparated = (rows: Values[]): string =>
  rows
    .map((row) =>
      row
        .map((value) => textOf(value ?? null) ?? "")
        .map((text) => (/[\t\r\n]|^"/.test(text) ? quoted(text) : text))
        .join("\t"),
    )
    .join("\n");

// --- JSON -----------------------------------------------------------------------------------------------------------

/** Write a value as JSON. Numbers keep all their digits, and JSON columns become part of the document. */
function jsonValue(value: Whole | undefined, type: string): string {
  if (value === null || value === undefined) return "null";
  if (Array.isArray(value)) {
    const element = type.replace(/\[\]$/, "");
    return `[${value.map((part) => jsonValue(part, element)).join(",")}]`;
  }
  if (NUMBER.test(type) && JSON_NUMBER.test(value)) return value;
  if (/^bool(ean)?$/.test(type)) return value.startsWith("t") ? "true" : "false";
  // Only between its tokens can a JSON text have line ends.
  if (/^jsonb?$/.test(type)) return value.replace(/[\r\n]+/g, " ");
  return JSON.stringify(value);
}

/** Write a row as a JSON object; columns of the same name get a number. */
export function jsonObject(heads: Head[], row: Values): string {
  const names = new Set<string>();
  const parts = heads.map(({ name, type }, index) => {
    let key = name;
    for (let again = 2; names.has(key); again++) key = `${name}_${again}`;
    names.add(key);
    return `${JSON.stringify(key)}:${jsonValue(row[index], type)}`;
  });
  return `{${parts.join(",")}}`;
}

/** Write rows as the pieces of a JSON array, or of a file with an object on each line. */
export function* jsonLines(heads: Head[], rows: Iterable<Values>, isArray: boolean): Generator<string> {
  let before = isArray ? "[\n" : "";
  for (const row of rows) {
    yield before + jsonObject(heads, row) + (isArray ? "" : "\n");
    before = isArray ? ",\n" : "";
  }
  if (isArray) yield before === "[\n" ? "[]\n" : "\n]\n";
}

// --- SQL ------------------------------------------------------------------------------------------------------------

export const sqlName = (name: string): string => `"${name.replaceAll('"', '""')}"`;

function sqlLiteral(value: Whole | undefined, type: string): string {
  if (value === undefined) return "DEFAULT";
  const text = textOf(value);
  if (text === null) return "NULL";
  if (NUMBER.test(type) && JSON_NUMBER.test(text)) return text;
  return `'${text.replaceAll("'", "''")}'`;
}

function arrayLiteral(values: (string | null)[]): string {
  const parts = values.map((part) => (part === null ? "NULL" : `"${part.replace(/["\\]/g, "\\$&")}"`));
  return `{${parts.join(",")}}`;
}

/** Write one INSERT statement for the rows; `table` is its name, with the schema if it is not in the search path. */
export function insertStatement(table: string[], heads: Head[], rows: Values[]): string {
  const lines = rows.map((row) => `  (${heads.map(({ type }, index) => sqlLiteral(row[index], type)).join(", ")})`);
  const names = heads.map(({ name }) => sqlName(name)).join(", ");
  return `INSERT INTO ${table.map(sqlName).join(".")} (${names}) VALUES\n${lines.join(",\n")};\n`;
}
