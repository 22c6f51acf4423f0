// What this database is, how it is, and what is in it.

import { type Problem, Refused, get, rowsPath } from "../api";
import { button, bytes, h, number, replace } from "../dom";
import type { Page } from "../shell";

type Overview = {
  server: string; database: string; role: string; mode: string; version: string; uptime_seconds: number;
  size_bytes: number; revision: string | null; pending: (string | { revision: string; message?: string })[]; drift?: string[] | null;
  pool: Record<string, number>; connections: number | Record<string, number>;
  tables: { name: string; rows_estimated: number; size_bytes: number; last_activity: string | null }[];
};

export function overviewPage(): Page {
  const element = h("section.page.overview", {}, h("h1", {}, "Overview"));
  const body = h("div");
  element.append(body);

  async function load(): Promise<void> {
    try {
      draw(await get<Overview>("/api/overview"));
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      replace(body, wrong(error.problem));
    }
  }

  function draw(found: Overview): void {
    const drift = h("dd", {}, button("Compare with the models", () => void compare(), { class: "inline" }));
    const compare = async (): Promise<void> => {
      replace(drift, "comparing…");
      try {
        const { drift: lines } = await get<{ drift: string[] | null }>("/api/drift");
        replace(drift, lines?.length ? h("ul.plain", {}, lines.map((line) => h("li.wrong", {}, line))) : "none: the database is as the models say");
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        replace(drift, wrong(error.problem));
      }
    };
    const fact = (name: string, ...value: (Node | string)[]): HTMLElement => h("div", {}, h("dt", {}, name), h("dd", {}, value));
    const largest = Math.max(1, ...found.tables.map((table) => table.size_bytes));
    const pending = found.pending ?? [];
    replace(body,
      h("div.cards", {},
        h("dl.card", { "aria-label": "Server" },
          fact("Server", found.server), fact("PostgreSQL", found.version), fact("Up for", duration(found.uptime_seconds)),
          fact("Pool", poolOf(found.pool)), fact("Connections", connectionsOf(found.connections))),
        h("dl.card", { "aria-label": "Database" },
          fact("Database", found.database), fact("Role", found.role),
          fact("Mode", h("span.mode", {}, found.mode), found.mode === "write" ? " changes are staged, then saved" : " the database refuses every change"),
          fact("Size", bytes(found.size_bytes))),
        h("dl.card", { "aria-label": "Schema" },
          fact("Revision", found.revision ?? "none"),
          fact("Pending", pending.length
            ? h("ul.plain", {}, pending.map((step) => h("li.wrong", {}, typeof step === "string" ? step : `${step.revision} ${step.message ?? ""}`)))
            : "nothing"),
          h("div", {}, h("dt", {}, "Drift"), drift))),
      h("div.scroll", {}, h("table.list", {},
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Table"), h("th.right", { scope: "col" }, "Rows"),
          h("th.right", { scope: "col" }, "Size"), h("th.wide", { scope: "col" }, h("span.sr", {}, "Share of the largest")), h("th", { scope: "col" }, "Last activity"))),
        h("tbody", {}, found.tables.map((table) => {
          const rows = button(`≈ ${number(table.rows_estimated)}`, () => void count(), {
            class: "inline", title: "Count exactly", "aria-label": `${table.name} has about ${number(table.rows_estimated)} rows; count exactly` });
          const count = async (): Promise<void> => {
            rows.textContent = "…";
            try {
              const { rows: exact } = await get<{ rows: number }>(`/api/count/${table.name}`);
              rows.textContent = number(exact);
              rows.setAttribute("aria-label", `${table.name} has exactly ${number(exact)} rows`);
            } catch (error) {
              if (!(error instanceof Refused)) throw error;
              rows.textContent = error.problem.what;
            }
          };
          const bar = h("span.bar-of", { "aria-hidden": "true" });
          bar.style.width = `${Math.max(1, (100 * table.size_bytes) / largest)}%`;
          return h("tr", {}, h("th", { scope: "row" }, h("a", { href: rowsPath(table.name) }, table.name)), h("td.right", {}, rows),
            h("td.right", {}, bytes(table.size_bytes)), h("td.wide", {}, bar), h("td.muted", {}, activity(table.last_activity)));
        })))),
      h("div.row", {}, button("Count all exactly", () =>
        body.querySelectorAll<HTMLButtonElement>("table.list button.inline").forEach((counter) => counter.click()))));
  }

  void load();
  return { title: "Overview", element, reload: () => void load() };
}

export const wrong = (problem: Problem): HTMLElement =>
  h("div.problem", { role: "alert" }, h("strong", {}, problem.what), h("p", {}, problem.means ?? ""), h("p", {}, problem.fix ?? ""));

const poolOf = (pool: Record<string, number>): string =>
  "in_use" in pool ? `${pool["in_use"]} of ${pool["size"]} in use` : Object.entries(pool ?? {}).map(([name, value]) => `${value} ${name}`).join(", ");

const connectionsOf = (connections: number | Record<string, number>): string =>
  typeof connections === "number" ? number(connections) : Object.entries(connections ?? {}).map(([name, value]) => `${value} ${name}`).join(", ");

export const activity = (moment: string | null): string => (moment === null ? "none seen" : moment.replace(/\.\d+/, "").replace("T", " "));

function duration(seconds: number): string {
  const [days, hours, minutes] = [seconds / 86400, (seconds / 3600) % 24, (seconds / 60) % 60].map(Math.floor) as [number, number, number];
  return days ? `${days} d ${hours} h` : hours ? `${hours} h ${minutes} min` : minutes ? `${minutes} min` : `${Math.floor(seconds)} s`;
}
