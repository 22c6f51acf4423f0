// How a value looks: NULL, an empty text and what cannot be seen are told apart, and nothing is ever markup.

import { type Cell, isCut, type Whole } from "./api.ts";
import { button, h, number } from "./dom.ts";

// What reorders or hides text shows its name instead of doing so.
const UNSEEN = /[\p{Cc}\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/gu;
const NAMES: Record<string, string> = {
  "\n": "↵",
  "\r": "CR",
  "\t": "⇥",
  "\u00ad": "SHY",
  "\u061c": "ALM",
  "\u200b": "ZWSP",
  "\u200c": "ZWNJ",
  "\u200d": "ZWJ",
  "\u200e": "LRM",
  "\u200f": "RLM",
  "\u2028": "LS",
  "\u2029": "PS",
  "\u202a": "LRE",
  "\u202b": "RLE",
  "\u202c": "PDF",
  "\u202d": "LRO",
  "\u202e": "RLO",
  "\u2060": "WJ",
  "\u2066": "LRI",
  "\u2067": "RLI",
  "\u2068": "FSI",
  "\u2069": "PDI",
  "\ufeff": "BOM",
};
const PICTURE = /\p{Extended_Pictographic}/u;

/** One line of text in which line ends and invisible characters can be seen. */
export function visible(text: string): (Node | string)[] {
  const parts: (Node | string)[] = [];
  let from = 0;
  for (const { 0: character, index } of text.matchAll(UNSEEN)) {
    // A joiner between pictures is part of one picture.
    if (character === "\u200d" && PICTURE.test(text.slice(Math.max(0, index - 3), index))) continue;
    const code = character.codePointAt(0)?.toString(16).toUpperCase().padStart(4, "0");
    if (index > from) parts.push(text.slice(from, index));
    parts.push(h("span.unseen", { title: `U+${code}` }, NAMES[character] ?? `U+${code}`));
    from = index + 1;
  }
  if (from < text.length) parts.push(text.slice(from));
  return parts;
}

const SHOWN = 200;
const LONG = 50_000;

/** A value as one line of a grid. */
export function oneLine(cell: Cell | undefined): HTMLElement {
  if (cell === undefined) return h("span.none.default", { title: "The database fills it in" }, "default");
  if (cell === null) return h("span.none.null", "NULL");
  if (cell === "") return h("span.none.empty", { title: "A text of no characters, which is not NULL" }, "empty");
  if (Array.isArray(cell)) return chips(cell);
  const [text, length] = isCut(cell) ? [cell.cut, cell.length] : [cell.slice(0, SHOWN), cell.length];
  const line = h("span.text", { dir: "auto" }, visible(text));
  if (text.length >= length) return line;
  return h("span.cut", line, h("span.more", { title: "Space shows it whole" }, `… ${number(length)}`));
}

export const begins = (text: string, length = SHOWN): string =>
  text.length > length ? `${text.slice(0, length)}…` : text;

/** The elements of an array; in a grid the first ones, and of long ones the beginning. */
export function chips(values: (string | null)[], { all = false } = {}): HTMLElement {
  if (!values.length)
    return h("span.none.empty", { title: "An array of no elements, which is not NULL" }, "empty array");
  return h(
    "span.chips",
    (all ? values : values.slice(0, 50)).map((value) =>
      h("span.chip", value === null || value === "" ? oneLine(value) : h("bdi", visible(all ? value : begins(value)))),
    ),
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

/** What Ctrl+C puts on the clipboard. */
export const plain = (value: Whole | undefined): string =>
  value === undefined || value === null ? "" : Array.isArray(value) ? JSON.stringify(value) : value;

export const shortType = (type: string): string =>
  type.replace("timestamp without time zone", "timestamp").replace("timestamp with time zone", "timestamptz");

export const same = (one: unknown, other: unknown): boolean => JSON.stringify(one) === JSON.stringify(other);

/**
 * Give the text that the person meant, when the editor knows one kind of line end and the original had others:
 * what was not touched stays as it was, to the character.
 */
export function mended(original: string, edited: string): string {
  const shown = original.replace(/\r\n?/g, "\n");
  if (edited === shown) return original;
  const limit = Math.min(shown.length, edited.length);
  let start = 0;
  while (start < limit && shown[start] === edited[start]) start++;
  let end = 0;
  while (end < limit - start && shown[shown.length - 1 - end] === edited[edited.length - 1 - end]) end++;
  // Where each shown character begins in the original, in which a line end may have two.
  const places: number[] = [];
  for (let at = 0; at < original.length; at++) {
    places.push(at);
    if (original[at] === "\r" && original[at + 1] === "\n") at++;
  }
  places.push(original.length);
  const lineEnd = original.includes("\r\n") ? "\r\n" : "\n";
  return (
    original.slice(0, places[start]) +
    edited.slice(start, edited.length - end).replace(/\n/g, lineEnd) +
    original.slice(places[shown.length - end])
  );
}
