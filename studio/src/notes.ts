// What a table says about itself: its comment, the columns that are missing, and why its rows cannot be changed.

import type { Table } from "./api.ts";
import { h } from "./dom.ts";
import { marked } from "./parts.ts";
import { writable } from "./session.ts";

export function note({ comment, hidden, obstacle, key }: Table): HTMLElement | false {
  const texts = [
    comment,
    // A reader of a table with a key has no use for the rights that his role lacks.
    (writable() || !key.length) && obstacle,
    hidden.length > 0 && `The role may not read these columns, so they are not shown: ${hidden.join(", ")}.`,
  ].filter((text): text is string => !!text);
  return (
    texts.length > 0 &&
    h(
      "p.note",
      texts.map(marked).flatMap((text, at) => (at ? [" ", text] : [text])),
    )
  );
}
