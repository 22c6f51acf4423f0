// Values as text: invisible characters, shortened texts, the clipboard, and line ends.

import { type Cell, isCut, type Whole } from "./api.ts";

/** A character that reorders or hides text or ends a line. Its short name is shown in its place. */
export type Unseen = { code: string; name: string };

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

/** Split a text into visible parts and invisible characters. */
export function splitUnseen(text: string): (string | Unseen)[] {
  const parts: (string | Unseen)[] = [];
  let from = 0;
  for (const { 0: character, index } of text.matchAll(UNSEEN)) {
    // A joiner after an emoji belongs to it.
    if (character === "\u200d" && PICTURE.test(text.slice(Math.max(0, index - 3), index))) continue;
    const code = `U+${character.codePointAt(0)?.toString(16).toUpperCase().padStart(4, "0")}`;
    if (index > from) parts.push(text.slice(from, index));
    parts.push({ code, name: NAMES[character] ?? code });
    from = index + 1;
  }
  if (from < text.length) parts.push(text.slice(from));
  return parts;
}

/** The number of characters that a cell shows. */
export const SHOWN_LENGTH = 200;

export const begins = (text: string, length = SHOWN_LENGTH): string =>
  text.length > length ? `${text.slice(0, length)}…` : text;

/** Write a text that errors begin in lower case, such as “write [1]”, as a sentence. */
export const sentence = (text: string | null | undefined): string =>
  text ? `${text.charAt(0).toUpperCase()}${text.slice(1)}${/[.?!…]$/.test(text) ? "" : "."}` : "";

/** Return the text that Ctrl+C copies. */
export const plain = (value: Whole | undefined): string =>
  value === undefined || value === null ? "" : Array.isArray(value) ? JSON.stringify(value) : value;

/** Return roughly the text that a cell shows, to measure its width. */
export const textOf = (cell: Cell | undefined): string =>
  cell === null || cell === undefined ? "NULL" : isCut(cell) ? cell.cut : Array.isArray(cell) ? cell.join("  ") : cell;

export const shortType = (type: string): string =>
  type.replace("timestamp without time zone", "timestamp").replace("timestamp with time zone", "timestamptz");

export const same = (one: unknown, other: unknown): boolean => JSON.stringify(one) === JSON.stringify(other);

/**
 * Restore the line ends of a text after an edit. A `<textarea>` turns every line end into `\n`; the parts that the edit
 * did not touch get their original characters back.
 */
export function restoreLineEnds(original: string, edited: string): string {
  const shown = original.replace(/\r\n?/g, "\n");
  if (edited === shown) return original;
  const limit = Math.min(shown.length, edited.length);
  let start = 0;
  while (start < limit && shown[start] === edited[start]) start++;
  let end = 0;
  while (end < limit - start && shown[shown.length - 1 - end] === edited[edited.length - 1 - end]) end++;
  // The index in the original of each shown character; a line end may take two.
  const places: number[] = [];
  for (let at = 0; at < original.length; at++) {
    places.push(at);
    if (original[at] === "\r" && original[at + 1] === "\n") at++;
  }
  places.push(original.length);
  const lineEnd = original.includes("\r\n") ? "\r\n" : "\n";
  const typed = edited.slice(start, edited.length - end).replace(/\n/g, lineEnd);
  return joinLines(joinLines(original.slice(0, places[start]), typed), original.slice(places[shown.length - end]));
}

/** Join two texts so that a CR and an LF that meet stay two line ends. */
const joinLines = (left: string, right: string): string =>
  left.endsWith("\r") && right.startsWith("\n") ? `${left}\n${right}` : left + right;
