// How values look. NULL, empty text and invisible characters are distinguishable, and data is never markup.

import { type Cell, type Cut, isCut, type Whole } from "./api.ts";
import { button, bytes, h, number } from "./dom.ts";
import { begins, SHOWN_LENGTH, splitUnseen } from "./text.ts";
import { byteLength } from "./typed.ts";

/** The number of characters that the panel shows at first. */
const LONG = 50_000;

/** Draw a text as one line, with names in place of line ends and invisible characters. */
export const visible = (text: string): (Node | string)[] =>
  splitUnseen(text).map((part) =>
    typeof part === "string" ? part : h("span.unseen", { title: part.code }, part.name),
  );

/** Draw a cell. A value that cannot be drawn shows the problem in its own place. */
export function guarded(draw: () => HTMLElement): HTMLElement {
  try {
    return draw();
  } catch (error) {
    return h("span.wrong", { title: String(error) }, "This value cannot be shown");
  }
}

/** Draw a value as one line of a grid. */
export function oneLine(cell: Cell | undefined, kind = "text"): HTMLElement {
  if (cell === undefined)
    return h("span.none.default", { title: "The database fills in the default value" }, "default");
  if (cell === null) return h("span.none.null", "NULL");
  if (cell === "") return h("span.none.empty", { title: "An empty text, not NULL" }, "empty");
  if (Array.isArray(cell)) return chips(cell);
  if (kind === "bytea") return binary(cell);
  const [text, length] = isCut(cell) ? [cell.cut, cell.length] : [cell.slice(0, SHOWN_LENGTH), cell.length];
  const line = h("span.text", { dir: "auto" }, visible(text));
  if (text.length >= length) return line;
  const size = isCut(cell) && cell.bytes ? bytes(length) : number(length);
  return h("span.cut", line, h("span.more", { title: "Press Space to show the full value" }, `… ${size}`));
}

/** The number of characters of a binary value that a cell shows. */
const BINARY_LENGTH = 34;

function binary(cell: string | Cut): HTMLElement {
  const [text, length] = isCut(cell) ? [cell.cut, cell.length] : [cell, cell.length];
  const size = bytes(byteLength(length));
  const rest = text.length < length || length > BINARY_LENGTH ? "… " : " ";
  const title = "Press Space to show the full value";
  return h("span.cut", h("code", text.slice(0, BINARY_LENGTH)), h("span.more", { title }, `${rest}${size}`));
}

/** Draw an array as chips; in a grid only the first elements, shortened. */
export function chips(values: (string | null)[], { all = false } = {}): HTMLElement {
  if (!values.length) return h("span.none.empty", { title: "An empty array, not NULL" }, "empty array");
  const chip = (value: string | null): HTMLElement =>
    h("span.chip", value === null || value === "" ? oneLine(value) : h("bdi", visible(all ? value : begins(value))));
  return h(
    "span.chips",
    (all ? values : values.slice(0, 50)).map(chip),
    !all && values.length > 50 && h("span.more", `… ${number(values.length)}`),
  );
}

/** Draw a value in full, with all its lines. */
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
