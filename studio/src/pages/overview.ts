// What this database is, how it is, and what is in it.

import { asRefused, get, type Problem, rowsPath } from "../api.ts";
import { button, bytes, h, number, replace } from "../dom.ts";
import { showing, timestamp } from "../parts.ts";
import type { Page } from "../router.ts";

type Overview = {
  server: string;
  database: string;
  role: string;
  mode: string;
  version: string;
  server_version: string;
  uptime_seconds: number;
  size_bytes: number;
  revision: string | null;
  pending: (string | { revision: string; message?: string })[];
  problem: Problem | null;
  pool: { size: number; in_use: number };
  connections: number;
  max_connections: number;
  tables: {
    name: string;
    rows_estimated: number;
    size_bytes: number;
    last_activity: string | null;
    missing: boolean;
  }[];
};

export function overviewPage(): Page {
  const element = h("section.page.overview", h("h1", "Overview"));
  const body = h("div");
  element.append(body);

  async function load(): Promise<void> {
    await showing(body, async () => draw(await get<Overview>("/api/overview")));
  }

  function draw(found: Overview): void {
    const drift = h(
      "dd",
      button("Compare with the models", () => void compare(), { class: "inline" }),
    );
    const compare = async (): Promise<void> => {
      replace(drift, "comparing…");
      await showing(drift, async () => {
        const found = await get<{ drift: string[]; migrations: string[]; heads: string[] }>("/api/drift");
        const lines = [...found.drift, ...found.migrations, ...found.heads];
        replace(
          drift,
          lines.length
            ? h(
                "ul.plain",
                lines.map((line) => h("li.wrong", line)),
              )
            : "none: the database is as the models say",
        );
      });
    };
    const fact = (name: string, ...value: (Node | string)[]): HTMLElement => h("div", h("dt", name), h("dd", value));
    const largest = Math.max(1, ...found.tables.map((table) => table.size_bytes));
    const { pending, problem } = found;
    replace(
      body,
      h(
        "div.cards",
        h(
          "dl.card",
          { "aria-label": "Server" },
          fact("Server", found.server),
          fact("PostgreSQL", found.server_version),
          fact("Up for", duration(found.uptime_seconds)),
          fact("Pool", `${found.pool.in_use} of ${found.pool.size} in use`),
          fact("Connections", `${number(found.connections)} of ${number(found.max_connections)}`),
        ),
        h(
          "dl.card",
          { "aria-label": "Database" },
          fact("Database", found.database),
          fact("Role", found.role),
          fact(
            "Mode",
            h("span.mode", found.mode),
            found.mode === "write" ? " changes are staged, then saved" : " the database refuses every change",
          ),
          fact("Size", bytes(found.size_bytes)),
          fact("Studio", `tatame-db ${found.version}`),
        ),
        h(
          "dl.card",
          { "aria-label": "Schema" },
          fact("Revision", found.revision ?? "none"),
          problem ? h("div", h("dt", "Trouble"), h("dd.wrong", problem.what, " ", problem.fix ?? "")) : "",
          fact(
            "Pending",
            pending.length
              ? h(
                  "ul.plain",
                  pending.map((step) =>
                    h("li.wrong", typeof step === "string" ? step : `${step.revision} ${step.message ?? ""}`),
                  ),
                )
              : "nothing",
          ),
          h("div", h("dt", "Drift"), drift),
        ),
      ),
      h(
        "div.scroll",
        h(
          "table.list",
          h(
            "thead",
            h(
              "tr",
              h("th", { scope: "col" }, "Table"),
              h("th.right", { scope: "col" }, "Rows"),
              h("th.right", { scope: "col" }, "Size"),
              h("th.wide", { scope: "col" }, h("span.sr", "Share of the largest")),
              h("th", { scope: "col" }, "Last activity"),
            ),
          ),
          h(
            "tbody",
            found.tables
              .sort((one, other) => one.name.localeCompare(other.name))
              .map((table) => {
                const rows = button(`≈ ${number(table.rows_estimated)}`, () => void count(), {
                  class: "inline",
                  title: "Count exactly",
                  "aria-label": `${table.name} has about ${number(table.rows_estimated)} rows; count exactly`,
                });
                const count = async (): Promise<void> => {
                  rows.textContent = "…";
                  try {
                    const { rows: exact } = await get<{ rows: number }>(`/api/count/${table.name}`);
                    rows.textContent = number(exact);
                    rows.setAttribute("aria-label", `${table.name} has exactly ${number(exact)} rows`);
                  } catch (error) {
                    rows.textContent = asRefused(error).problem.what;
                  }
                };
                const bar = h("span.bar-of", { "aria-hidden": "true" });
                bar.style.width = `${Math.max(1, (100 * table.size_bytes) / largest)}%`;
                if (table.missing)
                  return h(
                    "tr",
                    h("th", { scope: "row" }, table.name),
                    h("td.wrong", { colspan: 4 }, "This table is not there."),
                  );
                return h(
                  "tr",
                  h("th", { scope: "row" }, h("a", { href: rowsPath(table.name) }, table.name)),
                  h("td.right", rows),
                  h("td.right", bytes(table.size_bytes)),
                  h("td.wide", bar),
                  h("td.muted", timestamp(table.last_activity)),
                );
              }),
          ),
        ),
      ),
      h(
        "div.row",
        button("Count all exactly", () => {
          for (const counter of body.querySelectorAll<HTMLButtonElement>("table.list button.inline")) counter.click();
        }),
      ),
    );
  }

  void load();
  return { title: "Overview", element, reload: () => void load() };
}

function duration(seconds: number): string {
  const [days, hours, minutes] = [seconds / 86400, (seconds / 3600) % 24, (seconds / 60) % 60].map(Math.floor) as [
    number,
    number,
    number,
  ];
  return days
    ? `${days} d ${hours} h`
    : hours
      ? `${hours} h ${minutes} min`
      : minutes
        ? `${minutes} min`
        : `${Math.floor(seconds)} s`;
}
