// JSON as a tree of texts: no number loses a digit, and no key that occurs twice disappears.

export type Json =
  | { kind: "object"; entries: [string, Json][] }
  | { kind: "array"; items: Json[] }
  | { kind: "string" | "number" | "boolean" | "null"; text: string };

const TOKEN = /\s*(?:([{}[\],:])|("(?:[^"\\]|\\.)*")|(-?\d[\d.eE+-]*)|(true|false|null))\s*/sy;
const DEEPEST = 200;

/** Parse JSON that PostgreSQL wrote. Throws `SyntaxError` for anything else, and for what is nested too deep to show. */
export function parseJson(text: string): Json {
  let at = 0;
  const next = (): { mark?: string; quoted?: string; number?: string; word?: string } => {
    TOKEN.lastIndex = at;
    const found = TOKEN.exec(text);
    if (!found) throw new SyntaxError(`no JSON at character ${at + 1}`);
    at = TOKEN.lastIndex;
    const [, mark, quoted, number, word] = found;
    return { ...(mark && { mark }), ...(quoted && { quoted }), ...(number && { number }), ...(word && { word }) };
  };
  const list = (end: string, item: () => void): void => {
    TOKEN.lastIndex = at;
    if (TOKEN.exec(text)?.[1] === end) {
      at = TOKEN.lastIndex;
      return;
    }
    for (;;) {
      item();
      const { mark } = next();
      if (mark === end) return;
      if (mark !== ",") throw new SyntaxError(`no comma at character ${at}`);
    }
  };
  const value = (depth: number): Json => {
    if (depth > DEEPEST) throw new SyntaxError("nested too deep");
    const { mark, quoted, number, word } = next();
    if (quoted !== undefined) return { kind: "string", text: JSON.parse(quoted) as string };
    if (number !== undefined) return { kind: "number", text: number };
    if (word !== undefined) return { kind: word === "null" ? "null" : "boolean", text: word };
    if (mark === "[") {
      const items: Json[] = [];
      list("]", () => items.push(value(depth + 1)));
      return { kind: "array", items };
    }
    if (mark !== "{") throw new SyntaxError(`no value at character ${at}`);
    const entries: [string, Json][] = [];
    list("}", () => {
      const key = next().quoted;
      if (key === undefined || next().mark !== ":") throw new SyntaxError(`no key at character ${at}`);
      entries.push([JSON.parse(key) as string, value(depth + 1)]);
    });
    return { kind: "object", entries };
  };
  const found = value(0);
  if (at < text.length) throw new SyntaxError(`more than one value at character ${at + 1}`);
  return found;
}

/** Write JSON with a line for each member. */
export function printJson(json: Json, indent = ""): string {
  const deeper = `${indent}  `;
  const block = (open: string, lines: string[], close: string): string =>
    lines.length ? `${open}\n${lines.map((line) => deeper + line).join(",\n")}\n${indent}${close}` : open + close;
  if (json.kind === "object")
    return block(
      "{",
      json.entries.map(([key, value]) => `${JSON.stringify(key)}: ${printJson(value, deeper)}`),
      "}",
    );
  if (json.kind === "array")
    return block(
      "[",
      json.items.map((item) => printJson(item, deeper)),
      "]",
    );
  return json.kind === "string" ? JSON.stringify(json.text) : json.text;
}
