// How a value looks: NULL, an empty text and invisible characters can be told apart, and data is never markup.

import { type Cell, isCut, type Whole } from "./api.ts";
import { button, h, number } from "./dom.ts";
import { begins, SHOWN_LENGTH, splitUnseen } from "./text.ts";

/** How much of a value the panel shows at first. */
const LONG = 50_000;

/** One line of text in which line ends and invisible characters can be seen. */
export const visible = (text: string): (Node | string)[] =>
  splitUnseen(text).map((part) =>
    typeof part === "string" ? part : h("span.unseen", { title: part.code }, part.name),
  );

/** A value as one line of a grid. */
export function oneLine(cell: Cell | undefined): HTMLElement {
  if (cell === undefined) return h("span.none.default", { title: "The database fills it in" }, "default");
  if (cell === null) return h("span.none.null", "NULL");
  if (cell === "") return h("span.none.empty", { title: "A text of no characters, which is not NULL" }, "empty");
  if (Array.isArray(cell)) return chips(cell);
  const [text, length] = isCut(cell) ? [cell.cut, cell.length] : [cell.slice(0, SHOWN_LENGTH), cell.length];
  const line = h("span.text", { dir: "auto" }, visible(text));
  if (text.length >= length) return line;
  return h("span.cut", line, h("span.more", { title: "Space shows it whole" }, `… ${number(length)}`));
}

/** The elements of an array; in a grid the first ones, and of long ones the beginning. */
export function chips(values: (string | null)[], { all = false } = {}): HTMLElement {
  if (!values.length)
    return h("span.none.empty", { title: "An array of no elements, which is not NULL" }, "empty array");
  const chip = (value: string | null): HTMLElement =>
    h("span.chip", value === null || value === "" ? oneLine(value) : h("bdi", visible(all ? value : begins(value))));
  return h(
    "span.chips",
    (all ? values : values.slice(0, 50)).map(chip),
    !all && values.length > 50 && h("span.more", `… ${number(values.length)}`),
  );
}

/** A value as it is, over as many lines as it has. */
export function whole(value: Whole): HTMLElement {
  if (value === null || value === "") return oneLine(value);
  if (Array.isArray(value)) return chips(value, { all: true });
  const shown = h("pre.whole", { dir: "auto", tabindex: 0, "aria-label": "Value" }, value.slice(0, LONG));
  if (value.length <= LONG) return shown;
  // A browser needs seconds to lay out a megabyte without a space.
  const more = button(`Show all ${number(value.length)} characters`, () => {
    shown.textContent = value;
    more.remove();
  });
  return h("div.long", shown, more);
}
