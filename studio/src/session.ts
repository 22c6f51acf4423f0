// The session: the database that the studio shows, its tables, and whether the studio may write.

import type { Session, Table } from "./api.ts";

export let session: Session;

/** Set the session, once, before the first page is shown. */
export function startSession(answer: Session): void {
  session = { ...answer, tables: [...answer.tables].sort((one, other) => one.name.localeCompare(other.name)) };
}

export const writable = (): boolean => session.mode === "write";

export const tableNamed = (name: string): Table | undefined => session.tables.find((table) => table.name === name);
