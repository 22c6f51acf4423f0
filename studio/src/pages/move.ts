// How far the move out of Supabase is, table by table, while it runs and after.

import { Refused, get, rowPath, rowsPath } from "../api";
import { h, number, plural, replace } from "../dom";
import type { Page } from "../shell";
import { activity, wrong } from "./overview";

type Difference = { key: string; kind: string; columns?: string[] };
type Moved = {
  table: string; phase: number | string | null; state?: string | null;
  source_rows: number | null; target_rows: number | null; source_digest: string | null; target_digest: string | null;
  equal: boolean | null; copied_at: string | null; proven_at: string | null; stale: boolean | null; rejected?: number | null;
  rows_per_second?: number | null; speed?: number | null; differences?: Difference[]; differing?: number | null;
};
type Run = { id: number; started_at: string; ended_at: string | null; outcome: string | null; source: string };
type Answer = { ever: boolean; running: boolean; runs: Run[]; tables: Moved[]; parked: { kind: string; table: string; name: string }[] };

export function movePage(): Page {
  const body = h("div");
  const element = h("section.page.move", {}, h("h1", {}, "The move out of Supabase"), body);
  let events: EventSource | null = null;

  async function load(): Promise<void> {
    try {
      draw(await get<Answer>("/api/move"));
      listen();
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      replace(body, wrong(error.problem));
    }
  }

  function listen(): void {
    events?.close();
    events = new EventSource("/api/move/events");
    events.onmessage = ({ data }) => draw(JSON.parse(data));
  }

  function draw(found: Answer): void {
    if (!found.ever) return replace(body, never());
    const { runs, tables, parked, running } = found;
    const proven = tables.filter((table) => table.equal && !table.stale).length;
    const last = runs[0];
    replace(body,
      h("p.lead", { role: "status" }, running ? h("span.live", {}, "A copy is running. ") : "",
        `${proven} of ${plural(tables.length, "table")} proven equal.`,
        last ? ` Last run ${activity(last.started_at)}${last.ended_at ? `, ended ${activity(last.ended_at)}` : ""}${last.outcome ? `: ${last.outcome}` : ""}.` : ""),
      parked.length ? h("div.problem", {}, h("strong", {}, `${plural(parked.length, "key or index", )} away while tables are written`),
        h("p", {}, running ? "They come back at the end." : "A run was killed. `tatame-db move copy` brings them back.")) : "",
      h("div.scroll", { tabindex: 0, role: "region", "aria-label": "Tables" }, h("table.list", {},
        h("thead", {}, h("tr", {}, ["Table", "Phase"].map((text) => h("th", { scope: "col" }, text)),
          ["Source", "Here"].map((text) => h("th.right", { scope: "col" }, text)),
          ["Checksum", "Speed", "State", "Proven"].map((text) => h("th", { scope: "col" }, text)))),
        h("tbody", {}, tables.map(rowOf)))),
      runs.length ? h("details", {}, h("summary", {}, "Runs"), h("ul.plain", {}, runs.map((run) =>
        h("li", {}, `${run.id} · ${activity(run.started_at)} · ${run.outcome ?? (run.ended_at ? "ended" : "running")} · from ${run.source}`)))) : "");
  }

  function rowOf(table: Moved): HTMLElement {
    const speed = table.rows_per_second ?? table.speed ?? null;
    const state = table.state ?? (table.equal === null ? "not copied" : !table.equal ? "differs" : table.stale ? "written to since" : "equal");
    const digests = [table.source_digest, table.target_digest];
    return h("tr", {},
      h("th", { scope: "row" }, h("a", { href: rowsPath(table.table) }, table.table)),
      h("td", {}, table.phase ?? ""),
      h("td.right", {}, count(table.source_rows)), h("td.right", {}, count(table.target_rows)),
      h("td.digest", {}, digests[0] && digests[0] === digests[1] ? h("code", {}, digests[0])
        : digests.some(Boolean) ? [h("code", {}, digests[0] ?? "none"), " ≠ ", h("code", {}, digests[1] ?? "none")] : h("span.muted", {}, "not known")),
      h("td", {}, speed === null ? "" : `${number(Math.round(speed))} rows/s`),
      h("td", {}, h("span", { class: `state ${table.equal && !table.stale ? "good" : table.equal === null ? "" : "bad"}` }, state),
        table.rejected ? h("span.wrong", {}, ` ${plural(table.rejected, "row")} rejected`) : "",
        table.differences?.length ? h("details", {}, h("summary", {}, `${plural(table.differing ?? table.differences.length, "row")} differ`),
          h("ul.plain", {}, table.differences.map((difference) => h("li", {},
            h("a", { href: rowPath(table.table, difference.key) }, difference.key), ` ${difference.kind}`,
            difference.columns?.length ? ` in ${difference.columns.join(", ")}` : "")))) : ""),
      h("td.muted", {}, table.proven_at ? activity(table.proven_at) : ""));
  }

  void load();
  return { title: "Move", element, reload: () => void load(), leave: () => events?.close() };
}

const count = (rows: number | null): string => (rows === null ? "" : number(rows));

function never(): HTMLElement {
  const steps: [string, string][] = [
    ["export SUPABASE_DB_URL='postgresql://…'", "the address of the project's own PostgreSQL"],
    ["tatame-db move plan", "what would become of each row, and what stands in the way; it only reads"],
    ["tatame-db move copy", "copies what differs and proves it; run it again as often as you like"],
    ["tatame-db move verify", "compares whole contents, down to the value"],
  ];
  return h("div.never", {}, h("p.lead", {}, "No move was ever run into this database. This is how it goes, in a terminal:"),
    h("ol", {}, steps.map(([command, does]) => h("li", {}, h("code", {}, command), h("span", {}, does)))),
    h("p.muted", {}, "This page shows each table as it is copied, and follows by itself."));
}
