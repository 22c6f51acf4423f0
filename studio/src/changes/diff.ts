// The diff of a staged change: each value before and after, and the reason if the database rejected it.

import type { Cell } from "../api.ts";
import { button, h } from "../dom.ts";
import { oneLine, whole } from "../values.ts";
import { type Change, changeName } from "./staged.ts";

export function diff(change: Change, discard: () => void): HTMLElement {
  const name = changeName(change);
  const columns = Object.keys(change.op === "delete" ? change.was : change.values);
  return h(
    "li",
    { class: `change ${change.op}` },
    h(
      "div.head",
      h("span.op", change.op),
      h("strong", name),
      button("Undo", discard, { class: "quiet", "aria-label": `Undo: ${change.op} ${name}` }),
    ),
    change.error !== undefined && h("p.wrong", change.error),
    change.op === "insert" && !columns.length && h("p.muted", "Every column takes its default value."),
    h(
      "dl.diff",
      columns.map((column) => [h("dt", column), values(change, column)]),
    ),
  );
}

const values = ({ op, was, values, errors }: Change, column: string): HTMLElement =>
  h(
    "dd",
    op !== "insert" && h("del", shownValue(was[column])),
    op !== "delete" && h("ins", shownValue(values[column])),
    errors[column] !== undefined && h("p.wrong", errors[column]),
  );

/** Draw a value: a short text with all its lines, any other value in one line. */
export const shownValue = (value: Cell | undefined): HTMLElement =>
  isShortText(value) && value.includes("\n") ? whole(value) : oneLine(value);

const isShortText = (value: Cell | undefined): value is string => typeof value === "string" && value.length < 5000;
