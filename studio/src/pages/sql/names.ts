// Completion from the server's catalogue: which tables a statement names, and the columns of these.

export type NamedTable = { schema: string; name: string; columns: [name: string, type: string][] };
export type NamedFunction = { schema: string; name: string; arguments: string[]; result: string | null };
export type Names = { tables: NamedTable[]; functions: NamedFunction[] };

/** Keywords in the order in which people type them; all others come after these. */
const COMMON =
  "SELECT FROM WHERE AND OR NOT IN IS NULL AS ON JOIN LEFT INNER GROUP ORDER BY HAVING LIMIT OFFSET DISTINCT COUNT CASE WHEN THEN ELSE END INSERT INTO VALUES UPDATE SET DELETE RETURNING WITH UNION ALL EXISTS BETWEEN LIKE ILIKE ASC DESC BEGIN COMMIT ROLLBACK CREATE TABLE ALTER DROP INDEX EXPLAIN ANALYZE TRUE FALSE".split(
    " ",
  );

/** Return how far a keyword comes before others, from -50 to 50. */
export function boostOf(keyword: string): number {
  const at = COMMON.indexOf(keyword.toUpperCase());
  return at < 0 ? -50 : 50 - Math.floor(at / 2);
}

const IDENTIFIER = String.raw`(?:"(?:[^"]|"")+"|[\p{L}_][\p{L}\p{N}_$]*)`;
const TABLE = new RegExp(
  String.raw`\b(?:FROM|JOIN|UPDATE|INTO|USING|TABLE|,)\s+(?:ONLY\s+)?(${IDENTIFIER}(?:\s*\.\s*${IDENTIFIER})?)|,\s*(${IDENTIFIER}(?:\.${IDENTIFIER})?)`,
  "giu",
);

const unquoted = (name: string): string =>
  name.startsWith('"') ? name.slice(1, -1).replaceAll('""', '"') : name.toLowerCase();

const partsOf = (name: string): string[] => (name.match(new RegExp(IDENTIFIER, "gu")) ?? []).map(unquoted);

/** Return the tables that a statement names after FROM, JOIN, UPDATE, INTO or a comma. */
export function tablesIn(statement: string, tables: NamedTable[]): NamedTable[] {
  const found = new Set<NamedTable>();
  const text = statement.replace(/--[^\n]*|'(?:[^']|'')*'|\/\*.*?\*\//gs, " ");
  for (const match of text.matchAll(TABLE)) {
    const parts = partsOf(match[1] ?? match[2] ?? "");
    const name = parts.at(-1);
    const schema = parts.length > 1 ? parts[0] : undefined;
    const table = tables.find((one) => one.name === name && (schema === undefined || one.schema === schema));
    if (table) found.add(table);
  }
  return [...found];
}

/** Return the text of the statement around an offset, as far as semicolons tell. */
export function statementAround(text: string, offset: number): string {
  const from = text.lastIndexOf(";", offset - 1) + 1;
  const to = text.indexOf(";", offset);
  return text.slice(from, to < 0 ? text.length : to);
}

/** Write a name as SQL needs it: with quotes unless it is lower-case and plain. */
export const sqlName = (name: string): string =>
  /^[a-z_][a-z0-9_$]*$/.test(name) ? name : `"${name.replaceAll('"', '""')}"`;
