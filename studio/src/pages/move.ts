// How far the move out of Supabase is, table by table, while it runs and after.

import { asRefused, get, rowPath, rowsPath } from "../api.ts";
import { button, bytes, h, number, plural, replace, say } from "../dom.ts";
import { showing, timestamp } from "../parts.ts";
import type { Page } from "../router.ts";

type Difference = { id: string | null; kind: string; values?: { column: string }[]; choice?: string | null };
type Moved = {
  table: string;
  phase: number;
  equal: boolean;
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
type Run = {
  id: number;
  started_at: string;
  ended_at: string | null;
  outcome: string;
  error?: string | null;
  source: string;
};
type Answer = { ever: boolean; running: boolean; runs: Run[]; tables: Moved[]; parked: string[] };

export function movePage(): Page {
  const body = h("div");
  const element = h("section.page.move", h("h1", "The move out of Supabase"), body);
  let events: EventSource | null = null;

  async function load(): Promise<void> {
    await showing(body, async () => {
      draw(await get<Answer>("/api/move"));
      listen();
    });
  }

  function listen(): void {
    events?.close();
    events = new EventSource("/api/move/events");
    events.onmessage = ({ data }) => draw(JSON.parse(data));
  }

  let written: Record<string, boolean> = {};
  let latest: Answer | null = null;

  function draw(found: Answer): void {
    latest = found;
    if (!found.ever) {
      replace(body, never());
      return;
    }
    const { runs, tables, parked, running } = found;
    const last = runs[0];
    replace(
      body,
      h(
        "p.lead",
        { role: "status" },
        running ? h("span.live", "A copy is running. ") : "",
        `${tables.filter(({ equal }) => equal).length} of ${plural(tables.length, "table")} proven equal.`,
        last
          ? ` Run ${last.id} began ${timestamp(last.started_at)}${last.ended_at ? `, ended ${timestamp(last.ended_at)}` : ""}: ${last.outcome}.`
          : "",
      ),
      last?.error ? h("div.problem", h("strong", `Run ${last.id} did not prove the move`), h("p", last.error)) : "",
      parked.length
        ? h(
            "div.problem",
            h("strong", `${plural(parked.length, "key")} and indexes are away while tables are written`),
            h(
              "p",
              running ? "They come back at the end." : "A run was killed. `tatame-db move copy` brings them back.",
            ),
            h("p.muted", parked.join(", ")),
          )
        : "",
      h(
        "div.scroll",
        { tabindex: 0, role: "region", "aria-label": "Tables" },
        h(
          "table.list",
          h(
            "thead",
            h(
              "tr",
              ["Table", "Phase"].map((text) => h("th", { scope: "col" }, text)),
              ["Source", "Here"].map((text) => h("th.right", { scope: "col" }, text)),
              ["Checksum", "Speed", "State", "Proven"].map((text) => h("th", { scope: "col" }, text)),
            ),
          ),
          h("tbody", tables.map(rowOf)),
        ),
      ),
      h(
        "div.row",
        check,
        h("span.muted", "It reads whole tables. Both sides are compared by `tatame-db move verify`."),
      ),
      h(
        "details",
        h("summary", "Runs"),
        h(
          "ul.plain",
          runs.map((run) => h("li", `${run.id} · ${timestamp(run.started_at)} · ${run.outcome} · from ${run.source}`)),
        ),
      ),
    );
  }

  const check = button("Was anything written since?", () => void look());
  async function look(): Promise<void> {
    check.disabled = true;
    check.textContent = "Reading…";
    try {
      ({ stale: written } = await get<{ stale: Record<string, boolean> }>("/api/move/stale"));
      if (latest) draw(latest);
    } catch (error) {
      say(asRefused(error).problem.what);
    }
    check.disabled = false;
    check.textContent = "Was anything written since?";
  }

  function stateOf(table: Moved): [string, string] {
    if (table.working) return ["", `being written${table.size_bytes ? `, ${bytes(table.size_bytes)}` : ""}`];
    if (table.target_rows === null) return ["", "not copied"];
    if (!table.equal) return ["bad", "copied, not proven"];
    if (table.table in written)
      return written[table.table] ? ["bad", "written to since"] : ["good", "equal, untouched since"];
    return ["good", "equal"];
  }

  function rowOf(table: Moved): HTMLElement {
    const [mood, state] = stateOf(table);
    const { source_digest: source, target_digest: target, differences = [] } = table;
    return h(
      "tr",
      h("th", { scope: "row" }, h("a", { href: rowsPath(table.table) }, table.table)),
      h("td", table.phase),
      h("td.right", count(table.source_rows)),
      h("td.right", count(table.target_rows)),
      h(
        "td.digest",
        source && source === target
          ? h("code", { title: source }, source)
          : source || target
            ? [h("code", source ?? "none"), " ≠ ", h("code", target ?? "none")]
            : "",
      ),
      h("td", table.rows_per_second === null ? "" : `${number(table.rows_per_second)} rows/s`),
      h(
        "td",
        h("span", { class: `state ${mood}` }, state),
        table.rejected ? h("div.wrong", `${plural(table.rejected, "row")} stayed behind by choice`) : "",
        table.nulled ? h("div.wrong", `${plural(table.nulled, "value")} became NULL by choice`) : "",
        table.waiting?.length ? h("div.muted", `${table.waiting.join(", ")} waits for a later phase`) : "",
        differences.length
          ? h(
              "details",
              h("summary", "Which"),
              h(
                "ul.plain",
                differences.map(({ id, kind, values = [], choice }) =>
                  h(
                    "li",
                    kind === "missing" || id === null
                      ? (id ?? "no id")
                      : h("a", { href: rowPath(table.table, id) }, id),
                    ` ${kind}`,
                    choice
                      ? `: ${choice}`
                      : values.length
                        ? ` in ${values.map(({ column }) => column).join(", ")}`
                        : "",
                  ),
                ),
              ),
            )
          : "",
      ),
      h("td.muted", table.proven_at ? timestamp(table.proven_at) : ""),
    );
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
  return h(
    "div.never",
    h("p.lead", "No move was ever run into this database. This is how it goes, in a terminal:"),
    h(
      "ol",
      steps.map(([command, does]) => h("li", h("code", command), h("span", does))),
    ),
    h("p.muted", "This page shows each table as it is copied, and follows by itself."),
  );
}
