// Slow statements: those that took the most time in total, or those that run now.

import { type Child, h, number } from "../../dom.ts";
import { columnHeading, marked } from "../../parts.ts";
import { statementOf } from "./text.ts";
import { age, type Session } from "./waits.ts";

type Recorded = {
  id: string | null;
  calls: number;
  total_ms: number;
  mean_ms: number;
  rows: number;
  statement: string | null;
};
/** With `advice` if nothing is recorded: how to turn that on. */
export type Statements = { statements: Recorded[]; advice: string | null };

export function slowStatements({ statements, advice }: Statements, sessions: Session[]): Child {
  if (advice === null)
    return table("Recorded statements", ["Mean", "Calls", "Total", "Rows", "Statement"], statements.map(recorded));
  const running = sessions
    .filter(({ state }) => state === "active")
    .sort((one, other) => (other.seconds ?? 0) - (one.seconds ?? 0));
  return [
    h("p.muted", "The server records no statements, so these are the ones that run now. ", marked(advice)),
    running.length > 0
      ? table("Running statements", ["Runs for", "Session", "Statement"], running.map(runningRow))
      : h("p.muted", "No statement runs."),
  ];
}

const table = (label: string, headings: string[], rows: HTMLElement[]): HTMLElement =>
  h(
    "div.scroll",
    { tabindex: 0, role: "region", "aria-label": label },
    h(
      "table.list",
      h(
        "thead",
        h(
          "tr",
          headings.map((text) => columnHeading(text, text === "Statement" || text === "Session" ? "" : "right")),
        ),
      ),
      h("tbody", rows),
    ),
  );

const recorded = ({ id, calls, total_ms: total, mean_ms: mean, rows, statement }: Recorded): HTMLElement =>
  h(
    "tr",
    { "data-key": id ?? "hidden" },
    h("td.right", milliseconds(mean)),
    h("td.right", number(calls)),
    h("td.right", milliseconds(total)),
    h("td.right", number(rows)),
    h(
      "td.statement",
      statement === null
        ? h("span.muted", "not visible")
        : statementOf({ statement, statement_length: null, visible: true }),
    ),
  );

const runningRow = (session: Session): HTMLElement =>
  h(
    "tr",
    { "data-key": session.pid },
    h("td.right", age(session.seconds ?? 0)),
    h("td", String(session.pid)),
    h("td.statement", statementOf(session)),
  );

const milliseconds = (ms: number): string => (ms < 1000 ? `${ms.toFixed(1)} ms` : age(ms / 1000));
