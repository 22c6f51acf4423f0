// Blocks of cells as spreadsheets copy them, and lists as PostgreSQL or JSON write them.

/** Read a block of cells: tabs between cells, and quotes around a cell that contains tabs, line ends or quotes. */
export function parseBlock(text: string): string[][] {
  const rows: string[][] = [];
  let row: string[] = [];
  for (let at = 0; ; ) {
    const { value, end } = (text[at] === '"' && quoted(text, at)) || bare(text, at);
    row.push(value);
    if (text[end] === "\t") {
      at = end + 1;
      continue;
    }
    rows.push(row);
    row = [];
    at = text.startsWith("\r\n", end) ? end + 2 : end + 1;
    // The last line end closes the last row, and begins none.
    if (at >= text.length) return rows;
  }
}

type Part = { value: string; end: number };

const isEnd = (text: string, at: number): boolean => at >= text.length || "\t\r\n".includes(text[at] ?? "");

function bare(text: string, at: number): Part {
  let end = at;
  while (!isEnd(text, end)) end++;
  return { value: text.slice(at, end), end };
}

/** Read a quoted cell. Returns null if the quotes belong to the text, as in `"so" he said`. */
function quoted(text: string, at: number): Part | null {
  let value = "";
  for (let from = at + 1; ; ) {
    const quote = text.indexOf('"', from);
    if (quote < 0) return null;
    value += text.slice(from, quote);
    if (text[quote + 1] !== '"') return isEnd(text, quote + 1) ? { value, end: quote + 1 } : null;
    value += '"';
    from = quote + 2;
  }
}

/** Read a list in the form `["a", null]` or `{a,NULL}`. Returns null for any other text, and for lists in lists. */
export function parseList(text: string): (string | null)[] | null {
  const list = text.trim();
  try {
    if (/^\{.*\}$/s.test(list)) return splitList(list.slice(1, -1), ARRAY_ITEM, arrayValue);
    if (/^\[.*\]$/s.test(list)) return splitList(list.slice(1, -1), JSON_ITEM, jsonValue);
  } catch {
    // An item that is neither a text nor a word of JSON.
  }
  return null;
}

const ARRAY_ITEM = /\s*("(?:[^"\\]|\\.)*"\s*|(?:[^",\\{}]|\\.)+)(,|$)/sy;
const JSON_ITEM = /\s*("(?:[^"\\]|\\.)*"\s*|[^",[\]{}]+)(,|$)/sy;

function splitList(inner: string, item: RegExp, value: (text: string) => string | null): (string | null)[] | null {
  const items: (string | null)[] = [];
  item.lastIndex = 0;
  if (inner.trim() === "") return items;
  for (;;) {
    const found = item.exec(inner);
    if (!found) return null;
    items.push(value((found[1] ?? "").trimEnd()));
    if (found[2] === "") return items;
  }
}

function arrayValue(text: string): string | null {
  if (/^null$/i.test(text)) return null;
  return (text.startsWith('"') ? text.slice(1, -1) : text).replace(/\\(.)/gs, "$1");
}

function jsonValue(text: string): string | null {
  const value: unknown = JSON.parse(text);
  // A number keeps all its digits.
  return value === null || typeof value === "string" ? value : text;
}
