// The tables of the move: homes, rows in source and target, digests, and states.

import { rowPath, rowsPath } from "../../api.ts";
import { bytes, type Child, h, number, plural } from "../../dom.ts";
import { columnHeading, redrawing, timestamp } from "../../parts.ts";

export type Home = "source" | "target" | "neither";

type Difference = { id: string | null; kind: string; values?: { column: string }[]; choice?: string | null };
export type MovedTable = {
  table: string;
  phase: number;
  /** As far as the target knows it; null if the triggers of the target contradict each other. */
  home: Home | null;
  equal: boolean;
  /** True while a copy writes the table; `size_bytes` is its size by then. */
  working: boolean;
  size_bytes: number | null;
  proven_at?: string | null;
  source_rows: number | null;
  target_rows: number | null;
  source_digest: string | null;
  target_digest: string | null;
  rows_per_second: number | null;
  waiting?: string[];
  rejected?: number;
  nulled?: number;
  differences?: Difference[];
};
/** By table, true if it was written to after its proof. Empty until that is checked. */
export type Stale = Record<string, boolean>;

/** Return the table, and the function that shows other values in it; a row that is the same stays as it is. */
export function moveTable(): { element: HTMLElement; show: (tables: MovedTable[], stale: Stale) => void } {
  const body = h("tbody");
  const redraw = redrawing(body);
  const element = h(
    "div.scroll",
    { tabindex: 0, role: "region", "aria-label": "Tables" },
    h(
      "table.list",
      h(
        "thead",
        h(
          "tr",
          ["Table", "Phase", "Home"].map((text) => columnHeading(text)),
          ["Source", "Target"].map((text) => columnHeading(text, "right")),
          ["Digest", "Speed", "State", "Proven"].map((text) => columnHeading(text)),
        ),
      ),
      body,
    ),
  );
  return {
    element,
    show: (tables, stale) =>
      redraw(
        tables.map((table) => [table.table, [table, stale[table.table]], () => tableRow(table, stale[table.table])]),
      ),
  };
}

const tableRow = (table: MovedTable, stale: boolean | undefined): HTMLElement =>
  h(
    "tr",
    h("th", { scope: "row" }, h("a", { href: rowsPath(table.table) }, table.table)),
    h("td", table.phase),
    h("td", table.home && h("span", { class: `home ${HOME_MOODS[table.home]}` }, table.home)),
    h("td.right", count(table.source_rows)),
    h("td.right", count(table.target_rows)),
    h("td.digest", digests(table.source_digest, table.target_digest)),
    h("td", table.rows_per_second === null ? "" : `${number(table.rows_per_second)} rows/s`),
    h("td", state(table, stale), losses(table), differences(table)),
    h("td.muted", table.proven_at ? timestamp(table.proven_at) : ""),
  );

const HOME_MOODS = { source: "", target: "good", neither: "bad" };

const count = (rows: number | null): string => (rows === null ? "" : number(rows));

function digests(source: string | null, target: string | null): Child {
  if (source === null && target === null) return "";
  if (source === target) return h("code", { title: source }, source);
  return [h("code", source ?? "none"), " ≠ ", h("code", target ?? "none")];
}

function state(table: MovedTable, stale: boolean | undefined): HTMLElement {
  const [mood, text] = ((): [string, string] => {
    if (table.working) return ["", `copying${table.size_bytes ? `, ${bytes(table.size_bytes)}` : ""}`];
    if (table.target_rows === null) return ["", "not copied"];
    if (!table.equal) return ["bad", "copied, not proven"];
    if (stale === undefined) return ["good", "equal"];
    return stale ? ["bad", "changed since the proof"] : ["good", "equal, unchanged since the proof"];
  })();
  return h("span", { class: `state ${mood}` }, text);
}

const losses = ({ rejected = 0, nulled = 0, waiting = [] }: MovedTable): Child => [
  rejected > 0 && h("div.wrong", `${plural(rejected, "row")} excluded by choice`),
  nulled > 0 && h("div.wrong", `${plural(nulled, "value")} set to NULL by choice`),
  waiting.length > 0 && h("div.muted", `${waiting.join(", ")}: filled in a later phase`),
];

const differences = ({ table, differences: found = [] }: MovedTable): Child =>
  found.length > 0 &&
  h(
    "details",
    h("summary", "Details"),
    h(
      "ul.plain",
      found.map((difference) => h("li", differenceLine(table, difference))),
    ),
  );

function differenceLine(table: string, { id, kind, values = [], choice }: Difference): Child {
  const key = kind === "missing" || id === null ? (id ?? "no id") : h("a", { href: rowPath(table, id) }, id);
  const columns = values.map(({ column }) => column).join(", ");
  return [key, ` ${kind}`, choice ? `: ${choice}` : columns && ` in ${columns}`];
}
