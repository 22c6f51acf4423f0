// The overview: the server, the database, the schema and the tables.

import { asRefused, countRows, get, type Problem, rowsPath } from "../api.ts";
import { button, bytes, type Child, h, number, plural, replace } from "../dom.ts";
import { bar, barHeading, columnHeading, marked, problemBox, showing, timestamp } from "../parts.ts";
import type { Page } from "../router.ts";
import { behind, type Follower } from "./move/followers.ts";

type Server = {
  server_version: string;
  uptime_seconds: number;
  size_bytes: number;
  connections: number;
  max_connections: number;
};
type Schema = { revision: string | null; pending: string[] };
type Card = "server" | "tables" | "schema" | "move";
/** A card that has a problem lacks its facts. */
type Overview = Partial<Server & Schema> & {
  server: string;
  database: string;
  role: string;
  mode: string;
  version: string;
  pool: { size: number; in_use: number };
  tables?: Table[];
  /** Null if no table follows another database or has moved. */
  move: Move | null;
  problems: Partial<Record<Card, Problem>>;
};
type Move = {
  moved: number;
  tables: number;
  problem: string | null;
  unfinished: string[];
  followers: Pick<Follower, "home" | "rows" | "seconds">[];
};
type Table = {
  name: string;
  rows_estimated: number | null;
  /** Null if a node of Citus does not answer. */
  size_bytes: number | null;
  newest_row: string | null;
  missing: boolean;
  /** Where Citus stores the rows; null without Citus. */
  place: string | null;
};
type Finding = { group: string; name: string; verdict: Verdict; text: string; fix: string | null };
type Verdict = "good" | "unknown" | "warn" | "bad";
type Examined = { counts: Record<Verdict, number>; findings: Finding[] };
type Drift = { drift: string[]; migrations: string[]; heads: string[] };

export function overviewPage(): Page {
  const body = h("div");
  const load = (): Promise<void> =>
    showing(body, async () => {
      const overview = await get<Overview>("/api/overview");
      const cards = h("div.cards", server(overview), database(overview), schema(overview));
      const { problems } = overview;
      replace(body, cards, doctor(), problems.tables ? problemBox(problems.tables) : tables(overview.tables ?? []));
    });
  void load();
  return {
    title: "Overview",
    element: h("section.page.overview", h("h1", "Overview"), body),
    reload: (arrived) => {
      arrived();
      void load();
    },
  };
}

const fact = (name: string, ...value: Child[]): HTMLElement => h("div", h("dt", name), h("dd", value));

const list = (lines: string[]): HTMLElement =>
  h(
    "ul.plain",
    lines.map((line) => h("li.wrong", line)),
  );

const server = ({ pool, problems, ...found }: Overview): HTMLElement =>
  h(
    "dl.card",
    { "aria-label": "Server" },
    fact("Server", found.server),
    problems.server ? problem(problems.server) : serverFacts(found as Server),
    fact("Pool", `${pool.in_use} of ${pool.size} in use`),
  );

const serverFacts = (found: Server): HTMLElement[] => [
  fact("PostgreSQL", found.server_version),
  fact("Uptime", duration(found.uptime_seconds)),
  fact("Connections", `${number(found.connections)} of ${number(found.max_connections)}`),
];

const problem = ({ what, fix }: Problem): HTMLElement =>
  h("div", h("dt", "Problem"), h("dd.wrong", marked(what), ". ", fix && ["Fix: ", marked(fix), "."]));

const database = (found: Overview): HTMLElement =>
  h(
    "dl.card",
    { "aria-label": "Database" },
    fact("Database", found.database),
    fact("Role", found.role),
    fact(
      "Mode",
      h("span.mode", found.mode),
      found.mode === "write" ? " changes are staged until you save them" : " the database rejects every change",
    ),
    found.size_bytes !== undefined && fact("Size", bytes(found.size_bytes)),
    fact("Studio", `tatame-db ${found.version}`),
  );

function schema({ revision, pending = [], problems, move }: Overview): HTMLElement {
  const compare = async (): Promise<void> => {
    replace(drift, "comparing…");
    await showing(drift, async () => {
      const { drift: differences, migrations, heads } = await get<Drift>("/api/drift");
      const lines = [...differences, ...migrations, ...heads];
      replace(drift, lines.length ? list(lines) : "none: the database matches the models");
    });
  };
  const drift = h(
    "dd",
    button("Compare with the models", () => void compare(), { class: "inline" }),
  );
  return h(
    "dl.card",
    { "aria-label": "Schema" },
    problems.schema
      ? problem(problems.schema)
      : [fact("Revision", revision ?? "none"), fact("Pending", pending.length ? list(pending) : "none")],
    h("div", h("dt", "Drift"), drift),
    problems.move ? problem(problems.move) : move && fact("Move", moveFact(move)),
  );
}

const moveFact = ({ moved, tables: all, problem, unfinished, followers }: Move): Child => [
  h("a", { href: "/move" }, `${number(moved)} of ${number(all)} tables have moved`),
  problem || unfinished.length > 0
    ? h("span.wrong", problem ? `; ${problem}` : `; maybe without a home: ${unfinished.join(", ")}`)
    : followers.map((follower) => `; the follower of the ${follower.home} is ${behind(follower)}`),
  !followers.length && "; no follow runs",
];

/** The examination of `tatame-db doctor`, on request: it takes seconds. */
function doctor(): HTMLElement {
  const examine = async (): Promise<void> => {
    replace(found, "examining…");
    await showing(found, async () => {
      const { counts, findings } = await get<Examined>("/api/doctor");
      const rest = findings.filter(({ verdict }) => verdict !== "good").sort((one, other) => rank(other) - rank(one));
      replace(
        found,
        h(
          "p",
          VERDICTS.filter((verdict) => counts[verdict]).map((verdict) => [state(verdict, counts[verdict]), " "]),
        ),
        h(
          "ul.plain",
          rest.map(({ name, verdict, text, fix }) =>
            h(
              "li",
              state(verdict),
              " ",
              h("strong", name),
              ": ",
              marked(text),
              fix && h("div.muted", "Fix: ", marked(fix)),
            ),
          ),
        ),
        button("Examine again", () => void examine(), { class: "inline" }),
      );
    });
  };
  const found = h(
    "dd",
    button("Examine the database", () => void examine(), { class: "inline" }),
  );
  return h("dl.card.doctor", { "aria-label": "Doctor" }, h("div", h("dt", "Doctor"), found));
}

const VERDICTS: Verdict[] = ["good", "unknown", "warn", "bad"];
const rank = ({ verdict }: Finding): number => VERDICTS.indexOf(verdict);
const state = (verdict: Verdict, count?: number): HTMLElement => {
  const word = verdict === "unknown" ? (count === undefined ? "?" : "not checked") : verdict;
  return h(`span.state.${verdict}`, count === undefined ? word : `${count} ${word}`);
};

function tables(found: Table[]): HTMLElement[] {
  const largest = Math.max(1, ...found.map(({ size_bytes }) => size_bytes ?? 0));
  const isPlaced = found.some(({ place }) => place !== null);
  const sorted = [...found].sort((one, other) => one.name.localeCompare(other.name));
  const counters = sorted.map(counter);
  return [
    h(
      "div.scroll",
      h(
        "table.list",
        h(
          "thead",
          h(
            "tr",
            columnHeading("Table"),
            columnHeading("Rows", "right"),
            columnHeading("Size", "right"),
            barHeading("Share of the largest"),
            columnHeading("Newest row"),
            isPlaced && columnHeading("Is"),
          ),
        ),
        h(
          "tbody",
          sorted.map((table, index) => tableRow(table, counters[index], (table.size_bytes ?? 0) / largest)),
        ),
      ),
    ),
    h(
      "div.row",
      button("Count all exactly", () => {
        for (const each of counters) each.click();
      }),
    ),
  ];
}

function tableRow(table: Table, rows: Child, share: number): HTMLElement {
  const name = (content: Child): HTMLElement => h("th", { scope: "row" }, content);
  if (table.missing) return h("tr", name(table.name), h("td.wrong", { colspan: 5 }, "This table does not exist."));
  return h(
    "tr",
    name(h("a", { href: rowsPath(table.name) }, table.name)),
    h("td.right", rows),
    h("td.right", table.size_bytes === null ? "unknown" : bytes(table.size_bytes)),
    h("td.wide", bar(share)),
    h("td.muted", timestamp(table.newest_row)),
    table.place !== null && h("td.muted", table.place),
  );
}

/** A button with the estimated number of rows, which counts them exactly. */
function counter({ name, rows_estimated }: Table): HTMLButtonElement {
  const count = async (): Promise<void> => {
    rows.textContent = "…";
    try {
      const exact = await countRows(name);
      rows.textContent = number(exact);
      rows.setAttribute("aria-label", `${name} has exactly ${plural(exact, "row")}`);
    } catch (error) {
      rows.textContent = asRefused(error).problem.what;
    }
  };
  const estimate = rows_estimated === null ? null : number(rows_estimated);
  const rows = button(estimate === null ? "unknown" : `about ${estimate}`, () => void count(), {
    class: "inline",
    title: "Count exactly",
    "aria-label": `${name} has ${rows_estimated === null ? "an unknown number of rows" : `about ${plural(rows_estimated, "row")}`}; count exactly`,
  });
  return rows;
}

function duration(seconds: number): string {
  const days = Math.floor(seconds / 86400);
  const hours = Math.floor(seconds / 3600) % 24;
  const minutes = Math.floor(seconds / 60) % 60;
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min` : `${Math.floor(seconds)} s`;
}
