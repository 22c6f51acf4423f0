// The session: the database that the studio shows, its tables, and whether the studio may write.

import { type Column, get, type Session, type Table, type TableName } from "./api.ts";

export let session: Session;

/** Set the session, once, before the first page is shown. */
export function startSession(answer: Session): void {
  session = { ...answer, tables: [...answer.tables].sort((one, other) => one.name.localeCompare(other.name)) };
  tables = session.tables.map((table) => ({ ...table, readable: true }));
}

export const writable = (): boolean => session.mode === "write";

/** The filter operators of a column. Values that PostgreSQL cannot compare are filtered by their text, as JSON is. */
export const operatorsOf = ({ kind, sortable }: Column): string[] => session.operators[sortable ? kind : "json"] ?? [];

/** All tables of the database; those of the models until `readTables` has read the others. */
export let tables: TableName[] = [];

export async function readTables(): Promise<void> {
  tables = await get<TableName[]>("/api/tables");
}

/** Read the description of a table. Throws `Refused`, with the status 404 if there is none. */
export const describeTable = (name: string): Promise<Table> => get<Table>(`/api/table/${encodeURIComponent(name)}`);
