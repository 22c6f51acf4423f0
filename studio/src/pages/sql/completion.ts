// The sources of completions: keywords in a sensible order, tables of all schemas, their columns, and functions.

import {
  type Completion,
  type CompletionContext,
  type CompletionResult,
  type CompletionSource,
  pickedCompletion,
} from "@codemirror/autocomplete";
import { PostgreSQL, type SQLNamespace, schemaCompletionSource, sql } from "@codemirror/lang-sql";
import type { Extension } from "@codemirror/state";
import type { EditorView } from "@codemirror/view";
import { get } from "../../api.ts";
import { shortType } from "../../text.ts";
import {
  boostOf,
  type NamedFunction,
  type NamedTable,
  type Names,
  sqlName,
  statementAround,
  tablesIn,
} from "./names.ts";

const SYSTEM = new Set(["pg_catalog", "information_schema"]);
let names: Names = { tables: [], functions: [] };
let functions: Completion[] = [];
let others: Completion[] = [];
let bySchema: CompletionSource = () => null;

let ready: Promise<unknown> = Promise.resolve();

/** Read the names from the server. Completion waits for them; without them, the editor completes keywords. */
export function loadNames(): void {
  ready = readNames().catch(() => {});
}

async function readNames(): Promise<void> {
  names = await get<Names>("/api/sql/names");
  functions = names.functions.map(functionCompletion);
  others = names.tables.filter(({ schema }) => schema !== "public").map(tableCompletion);
  bySchema = schemaCompletionSource({ dialect: PostgreSQL, schema: namespace(names.tables), defaultSchema: "public" });
}

/** SQL with completion. The sources look up the names anew each time, because those arrive later. */
export const sqlWithCompletion = (): Extension => [
  sql({ dialect: PostgreSQL, upperCaseKeywords: true, keywordCompletion: keyword }),
  ...[(context: CompletionContext) => bySchema(context), columnsAndFunctions].map((source) =>
    PostgreSQL.language.data.of({
      autocomplete: (context: CompletionContext) => ready.then(() => source(context)),
    }),
  ),
];

const keyword = (label: string, type: string): Completion => ({ label, type, boost: boostOf(label) });

const columnCompletions = ({ name, columns }: NamedTable): Completion[] =>
  columns.map(([column, type]) => ({
    label: column,
    type: "property",
    detail: `${shortType(type)} · ${name}`,
    apply: sqlName(column),
    boost: 60,
  }));

const tableCompletion = ({ schema, name }: NamedTable): Completion => ({
  label: `${schema}.${name}`,
  type: "class",
  apply: `${sqlName(schema)}.${sqlName(name)}`,
  boost: SYSTEM.has(schema) ? -60 : 20,
});

function functionCompletion({ schema, name, arguments: forms, result }: NamedFunction): Completion {
  const [first = "", ...more] = forms;
  const label = SYSTEM.has(schema) || schema === "public" ? name : `${schema}.${name}`;
  return {
    label,
    type: "function",
    detail: `(${first})${result ? ` → ${result}` : ""}${more.length ? ` +${more.length}` : ""}`,
    boost: SYSTEM.has(schema) ? -20 : 10,
    apply: (view: EditorView, completion: Completion, from: number, to: number): void => {
      const hasArguments = forms.some((form) => form !== "");
      const head = from + label.length + (hasArguments ? 1 : 2);
      view.dispatch({
        changes: { from, to, insert: `${label}()` },
        selection: { anchor: head },
        annotations: pickedCompletion.of(completion),
      });
    },
  };
}

function namespace(tables: NamedTable[]): SQLNamespace {
  const schemas: Record<string, Record<string, Completion[]>> = {};
  for (const table of tables) {
    schemas[table.schema] ??= {};
    const known = schemas[table.schema];
    if (known) known[table.name] = columnCompletions(table);
  }
  return schemas;
}

function columnsAndFunctions(context: CompletionContext): CompletionResult | null {
  const word = context.matchBefore(/[\p{L}_][\p{L}\p{N}_$]*/u);
  const before = context.state.sliceDoc(Math.max(0, (word?.from ?? context.pos) - 1), word?.from ?? context.pos);
  // After a dot only the columns of the table before it fit, and in a string nothing.
  if ((!word && !context.explicit) || before === "." || before === "'" || before === '"') return null;
  const text = context.state.doc.toString();
  const columns = tablesIn(statementAround(text, context.pos), names.tables).flatMap(columnCompletions);
  return {
    from: word?.from ?? context.pos,
    options: [...columns, ...others, ...functions],
    validFor: /^[\p{L}\p{N}_$]*$/u,
  };
}
