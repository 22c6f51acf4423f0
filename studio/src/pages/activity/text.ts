// The text of a statement in one line, shortened; its whole text on request.

import { type Child, h, number } from "../../dom.ts";
import { visible } from "../../values.ts";
import type { Session } from "./waits.ts";

const SHOWN = 120;

export function statementOf(session: Pick<Session, "statement" | "statement_length" | "visible">): Child {
  const { statement, statement_length: length } = session;
  if (!session.visible || !statement) return null;
  const line = statement.replace(/\s+/g, " ").trim();
  const text = h("code", { dir: "auto" }, visible(line.slice(0, SHOWN)));
  if (line.length <= SHOWN && (length ?? 0) <= statement.length) return text;
  const rest = (length ?? 0) > statement.length ? `\n… ${number(length ?? 0)} characters` : "";
  return h("details", h("summary", text, "…"), h("pre", { dir: "auto" }, statement + rest));
}
