// Where the chart of a statement is stored: in the comment above it, in the text of its tab.

import { announce } from "../../../dom.ts";
import { readSpec, type Spec, withSpec } from "./spec.ts";

export type ChartStore = { read: () => Spec | null; write: (spec: Spec | null) => void };
type Part = { text: string; from: number };
/** The text that holds the statement. */
type Text = { text: () => string; replace: (from: number, to: number, text: string) => void };

/** Return a statement with the comments above it; null if the text does not contain it any more. */
export function withComments(text: string, { text: statement, from }: Part): Part | null {
  const at = text.startsWith(statement, from) ? from : text.indexOf(statement);
  if (at < 0) return null;
  const lines = text.slice(0, at).split("\n");
  let start = at - (lines.pop() ?? "").length;
  if (text.slice(start, at).trim()) return { text: statement, from: at };
  while (/^\s*(--.*)?$/.test(lines.at(-1) ?? "other")) start -= (lines.pop() ?? "").length + 1;
  return { text: text.slice(start, at + statement.length), from: start };
}

export function chartStore(place: Text, statement: Part): ChartStore {
  let current = statement;
  return {
    read: () => readSpec(withComments(place.text(), current)?.text ?? ""),
    write: (spec) => {
      const found = withComments(place.text(), current);
      if (!found) {
        announce("The statement has changed. Run it again to store its chart.");
        return;
      }
      current = { text: withSpec(found.text, spec), from: found.from };
      if (current.text !== found.text) place.replace(found.from, found.from + found.text.length, current.text);
    },
  };
}
