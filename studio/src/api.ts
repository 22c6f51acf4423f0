// Requests to the server: their types, and what happens while the server does not respond.

import { encodedName } from "./names.ts";

/** The beginning of a long value; `length` is the number of characters of the whole, or of its bytes. */
export type Cut = { cut: string; length: number; bytes?: boolean };
export type Whole = null | string | (string | null)[];
export type Cell = Whole | Cut;

export const isCut = (cell: unknown): cell is Cut => typeof cell === "object" && cell !== null && !Array.isArray(cell);

export type Column = {
  name: string;
  type: string;
  kind: "text" | "integer" | "timestamp" | "array" | string;
  nullable: boolean;
  default: string | null;
  unique: boolean;
  primary: boolean;
  /** The column that it refers to, and whether that is the key of its table. */
  references: { table: string; column: string; is_key: boolean } | null;
  /** The values of an enum. */
  values: string[] | null;
  sortable: boolean;
  editable: boolean;
  insertable: boolean;
};

/** A table in the list of all of them. `name` is its address, and `title` its name as people read it. */
export type TableName = { name: string; schema: string; title: string; kind: string; readable: boolean };

export type Table = Omit<TableName, "readable"> & {
  comment: string | null;
  columns: Column[];
  /** The columns that identify a row; none if nothing does. */
  key: string[];
  /** The columns that the role may not read. */
  hidden: string[];
  /** The reason for which no row can be changed. */
  obstacle: string | null;
  may_insert: boolean;
  may_update: boolean;
  may_delete: boolean;
  referenced_by: { table: string; column: string }[];
};

export type Session = {
  server: string;
  database: string;
  role: string;
  mode: "read-only" | "write";
  version: string;
  /** The filter operators of each kind of column. */
  operators: Record<string, string[]>;
  tables: Table[];
};

export type Problem = { what: string; means?: string; fix?: string; code?: string | null };

/** The server rejected a request, or could not be reached. */
export class Refused extends Error {
  readonly status: number;
  readonly problem: Problem & Record<string, unknown>;

  constructor(status: number, problem: Problem & Record<string, unknown>) {
    super(problem.what);
    this.status = status;
    this.problem = problem;
  }
}

/** Return the error if it is a `Refused`; rethrow any other. */
export function asRefused(error: unknown): Refused {
  if (!(error instanceof Refused)) throw error;
  return error;
}

type Listener = (problem: Problem | null) => void;
const listeners = new Set<Listener>();
let trouble: Problem | null = null;
let polling = false;

/** Call `listener` when the server or the database cannot be reached, and with null when it can be again. */
export function onTrouble(listener: Listener): void {
  listeners.add(listener);
}

function report(problem: Problem | null): void {
  if (JSON.stringify(problem) === JSON.stringify(trouble)) return;
  trouble = problem;
  for (const listener of listeners) listener(problem);
}

const UNREACHABLE: Problem = {
  what: "The studio is not responding",
  means: "Its process has stopped or is busy. Nothing else was read or changed.",
  fix: "check the terminal running `tatame-db studio`, or start it again",
};

async function look(): Promise<boolean> {
  try {
    const answer = await fetch("/api/health", { cache: "no-store" });
    if (answer.ok) {
      report(null);
      return true;
    }
    report(await readProblem(answer));
  } catch {
    report(UNREACHABLE);
  }
  return false;
}

async function poll(): Promise<void> {
  if (polling) return;
  polling = true;
  while (!(await look())) await new Promise((resolve) => setTimeout(resolve, 1000));
  polling = false;
}

/** Check the health of the database every ten seconds while the page is visible. */
export function watchHealth(): void {
  setInterval(() => {
    if (!document.hidden && !polling)
      void look().then((well) => {
        if (!well) void poll();
      });
  }, 10_000);
}

async function readProblem(answer: Response): Promise<Problem & Record<string, unknown>> {
  try {
    return await answer.json();
  } catch {
    return { what: `Unexpected response from the studio: ${answer.status} ${answer.statusText}` };
  }
}

/** Send a request. Throws `Refused`, and reports trouble if the server or the database cannot be reached. */
export async function ask(path: string, init: RequestInit = {}): Promise<Response> {
  let answer: Response;
  try {
    answer = await fetch(path, { cache: "no-store", ...init });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    report(UNREACHABLE);
    void poll();
    throw new Refused(0, UNREACHABLE);
  }
  if (answer.ok) return answer;
  const problem = await readProblem(answer);
  if (answer.status === 503 || answer.status === 401) {
    report(problem);
    void poll();
  }
  throw new Refused(answer.status, problem);
}

export async function get<T>(
  path: string,
  query: Record<string, string | null | undefined> = {},
  init: RequestInit = {},
): Promise<T> {
  return (await ask(withQuery(path, query), init)).json();
}

export async function post<T>(path: string, body: unknown): Promise<T> {
  return (await ask(path, posted(body))).json();
}

export const posted = (body: unknown): RequestInit => ({
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(body),
});

export function withQuery(path: string, query: Record<string, string | null | undefined>): string {
  const search = new URLSearchParams(Object.entries(query).filter((entry): entry is [string, string] => !!entry[1]));
  return search.size ? `${path}?${search}` : path;
}

export const rowPath = (table: string, key: string): string =>
  `/t/${encodeURIComponent(table)}/${encodeURIComponent(key)}`;

export const rowsPath = (table: string, filter?: unknown): string =>
  withQuery(`/t/${encodeURIComponent(table)}`, { filter: filter ? JSON.stringify(filter) : null });

/** Return the address of the row that a value refers to: its page, or a filter if the value is not its key. */
export function referencePath({ table, column, is_key }: NonNullable<Column["references"]>, value: string): string {
  return is_key ? rowPath(table, value) : rowsPath(table, { all: [{ column, op: "is", value }] });
}

/** Return the full value of a cell; one that arrived cut is read again. */
export async function wholeValue(table: string, column: string, key: string, cell: Cell): Promise<Whole> {
  if (!isCut(cell)) return cell;
  const place = [table, encodedName(column), key].map(encodeURIComponent).join("/");
  return (await get<{ value: Whole }>(`/api/cell/${place}`)).value;
}

/** Return the exact number of rows of a table that match a filter. */
export async function countRows(table: string, filter: string | null = null, q: string | null = null): Promise<number> {
  return (await get<{ rows: number }>(`/api/count/${encodeURIComponent(table)}`, { filter, q })).rows;
}
