// The comment in a statement that says how its result is drawn: `-- chart: bar x=week y=checkins`.

export type Spec = {
  kind: "bar" | "line";
  /** The column of the axis. */
  x: string;
  /** The columns that are drawn; with a series, the first of them. */
  y: string[];
  /** The column whose values are drawn apart, or null. */
  series: string | null;
};

const LINE = /^[ \t]*--[ \t]*chart:[ \t]*(bar|line)\b(.*)$/im;
const WORD = /([a-z]+)=("(?:[^"]|"")*"|[^\s"]+)/gi;

/** Parse the first chart comment of a text; null if it has none, or one without an axis and a column. */
export function readSpec(text: string): Spec | null {
  const [, kind = "", rest = ""] = LINE.exec(text) ?? [];
  const spec: Spec = { kind: kind.toLowerCase() === "line" ? "line" : "bar", x: "", y: [], series: null };
  for (const [, word = "", value = ""] of rest.matchAll(WORD)) {
    const name = value.startsWith('"') ? value.slice(1, -1).replaceAll('""', '"') : value;
    if (word === "x") spec.x = name;
    if (word === "y") spec.y.push(name);
    if (word === "series") spec.series = name;
  }
  return spec.x && spec.y.length ? spec : null;
}

/** Write the comment. A name that a line cannot hold gives an empty text, and no chart is stored. */
export function writeSpec({ kind, x, y, series }: Spec): string {
  const names = [x, ...y, series ?? ""];
  if (names.some((name) => /[\r\n]/.test(name))) return "";
  const word = (key: string, name: string): string =>
    `${key}=${/^[^\s"]+$/.test(name) ? name : `"${name.replaceAll('"', '""')}"`}`;
  const words = [
    word("x", x),
    ...y.map((name) => word("y", name)),
    ...(series === null ? [] : [word("series", series)]),
  ];
  return `-- chart: ${kind} ${words.join(" ")}`;
}

/** Return a text with another chart comment, or without one; a new one becomes the first line after the description. */
export function withSpec(text: string, spec: Spec | null): string {
  const line = spec ? writeSpec(spec) : "";
  if (LINE.test(text)) {
    return line
      ? text.replace(LINE, () => line)
      : text.replace(/^[ \t]*--[ \t]*chart:[ \t]*(bar|line)\b.*\r?\n?/im, "");
  }
  if (!line) return text;
  const [head = ""] = /^(?:[ \t]*--.*\n)*/.exec(text) ?? [];
  return `${head}${line}\n${text.slice(head.length)}`;
}
