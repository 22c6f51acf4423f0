// Typed values: what a field of a kind accepts, how it reads a date, and why a text does not fit.

/** Examples that empty fields show. */
export const HINTS: Record<string, string> = {
  timestamp: "2026-11-26 10:00:00 or 26/11/2026 10:00",
  date: "2026-11-26 or 26/11/2026",
  time: "18:30:00",
  integer: "Whole number",
  number: "1234.5",
  uuid: "01890a5d-ac96-774b-bcce-b302099a8057",
  interval: "1 year 2 days 03:04:05",
  bytea: "\\x00ff",
  json: '{"a": 1}',
  array: "{{1,2},{3,4}}",
};

const DAY_FIRST = /^(\d{1,2})[/.](\d{1,2})[/.](\d{4})(?:[ T,]\s*(\d{1,2}):(\d{2})(?::(\d{2}(?:\.\d{1,6})?))?)?(.*)$/;

const two = (text: string): string => text.padStart(2, "0");

/** Read a typed value as PostgreSQL reads it: 26/11/2026 10:00 is a date with the day first, also where both could be. */
export function asTyped(kind: string, text: string): string {
  const trimmed = text.trim();
  if (kind !== "date" && kind !== "timestamp") return trimmed;
  const found = DAY_FIRST.exec(trimmed);
  if (!found) return trimmed;
  const [, day = "", month = "", year = "", hours, minutes, seconds, rest = ""] = found;
  const date = `${year}-${two(month)}-${two(day)}`;
  const time = hours === undefined ? "" : ` ${two(hours)}:${minutes}:${seconds ?? "00"}`;
  return `${date}${time}${rest}`;
}

const PATTERNS: Record<string, [RegExp, string]> = {
  integer: [/^[+-]?\d+$/, "Type a whole number, such as 7"],
  number: [
    /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$|^[+-]?(nan|inf(inity)?)$/i,
    "Type a number with a point, such as 1234.5",
  ],
  bytea: [/^\\x(\s*[0-9a-f]{2})*\s*$/i, "Type \\x and two hexadecimal digits for each byte"],
  uuid: [/^\{?([0-9a-f]{4}-?){7}[0-9a-f]{4}\}?$/i, "A UUID has 32 hexadecimal digits"],
};

/** Return the reason for which a text is no value of a kind; PostgreSQL decides in the end. */
export function problemOf(kind: string, text: string): string | null {
  const value = asTyped(kind, text);
  // PostgreSQL reads this word as the time of the save.
  if (value === "" || value === "now") return null;
  if (kind === "json") return jsonProblem(value);
  if (kind === "date" || kind === "timestamp") return dateProblem(value);
  const [pattern, advice] = PATTERNS[kind] ?? [];
  return pattern && !pattern.test(value) ? `${advice}.` : null;
}

function jsonProblem(text: string): string | null {
  try {
    JSON.parse(text);
    return null;
  } catch (error) {
    return `This is not JSON: ${(error as Error).message}.`;
  }
}

function dateProblem(value: string): string | null {
  const [, year = "", month = "", day = ""] = /^(\d{4})-(\d{2})-(\d{2})/.exec(value) ?? [];
  if (!year) return null;
  if (Number(month) < 1 || Number(month) > 12) return `${Number(month)} is not a month; the day comes first.`;
  const days = new Date(Date.UTC(Number(year), Number(month), 0)).getUTCDate();
  return Number(day) < 1 || Number(day) > days ? `${year}-${month} has no day ${Number(day)}.` : null;
}

const SHOWN_MOMENT = /^(\d{4}-\d{2}-\d{2})(?:[ T]((?:[01]\d|2[0-3]):[0-5]\d(?::[0-5]\d)?)(?:[.+-].*)?)?$/;

/** The type of the browser's own picker for a kind, and what it can show of a text. */
export function pickerOf(kind: string, text: string): { type: string; value: string } | null {
  const value = asTyped(kind, text);
  // A picker warns in the console of what it cannot show.
  const [, date = "", time = ""] = (dateProblem(value) === null && SHOWN_MOMENT.exec(value)) || [];
  if (kind === "date") return { type: "date", value: date };
  if (kind === "timestamp") return { type: "datetime-local", value: date && `${date}T${time || "00:00"}` };
  return null;
}

/** Return the number of bytes of a value that PostgreSQL writes as `\x00ff`. */
export const byteLength = (length: number): number => Math.max(0, (length - 2) / 2);
