// How far the move out of Supabase is, table by table, while it runs and after.

import { asRefused, get } from "../../api.ts";
import { button, type Child, h, plural, replace, say } from "../../dom.ts";
import { showing, timestamp } from "../../parts.ts";
import type { Page } from "../../router.ts";
import { type MovedTable, moveTable, type Stale } from "./table.ts";

type Run = {
  id: number;
  started_at: string;
  ended_at: string | null;
  outcome: string;
  error?: string | null;
  source: string;
};
type Answer = { ever: boolean; running: boolean; runs: Run[]; tables: MovedTable[]; parked: string[] };

const CHECK = "Was anything written since?";

export function movePage(): Page {
  const body = h("div");
  const check = button(CHECK, () => void checkStale());
  let events: EventSource | null = null;
  let latest: Answer | null = null;
  let stale: Stale = {};

  const draw = (answer: Answer): void => {
    latest = answer;
    replace(body, answer.ever ? progress(answer, stale, check) : instructions());
  };
  const load = (): Promise<void> =>
    showing(body, async () => {
      draw(await get<Answer>("/api/move"));
      events?.close();
      events = new EventSource("/api/move/events");
      events.onmessage = ({ data }) => draw(JSON.parse(data));
    });
  const checkStale = async (): Promise<void> => {
    check.disabled = true;
    check.textContent = "Reading…";
    try {
      ({ stale } = await get<{ stale: Stale }>("/api/move/stale"));
      if (latest) draw(latest);
    } catch (error) {
      say(asRefused(error).problem.what);
    }
    check.disabled = false;
    check.textContent = CHECK;
  };
  void load();
  return {
    title: "Move",
    element: h("section.page.move", h("h1", "The move out of Supabase"), body),
    reload: () => void load(),
    leave: () => events?.close(),
  };
}

function progress({ runs, tables, parked, running }: Answer, stale: Stale, check: HTMLElement): Child {
  const [last] = runs;
  const equal = tables.filter((table) => table.equal).length;
  return [
    h(
      "p.lead",
      { role: "status" },
      running && h("span.live", "A copy is running. "),
      `${equal} of ${plural(tables.length, "table")} proven equal.`,
      last && ` ${describeRun(last)}`,
    ),
    last?.error && h("div.problem", h("strong", `Run ${last.id} did not prove the move`), h("p", last.error)),
    parked.length > 0 && parkedKeys(parked, running),
    moveTable(tables, stale),
    h("div.row", check, h("span.muted", "It reads whole tables. Both sides are compared by `tatame-db move verify`.")),
    h("details", h("summary", "Runs"), h("ul.plain", runs.map(runLine))),
  ];
}

const describeRun = ({ id, started_at, ended_at, outcome }: Run): string =>
  `Run ${id} began ${timestamp(started_at)}${ended_at ? `, ended ${timestamp(ended_at)}` : ""}: ${outcome}.`;

const runLine = ({ id, started_at, outcome, source }: Run): HTMLElement =>
  h("li", `${id} · ${timestamp(started_at)} · ${outcome} · from ${source}`);

const parkedKeys = (parked: string[], running: boolean): HTMLElement =>
  h(
    "div.problem",
    h("strong", `${plural(parked.length, "key")} and indexes are away while tables are written`),
    h("p", running ? "They come back at the end." : "A run was killed. `tatame-db move copy` brings them back."),
    h("p.muted", parked.join(", ")),
  );

const STEPS = [
  ["export SUPABASE_DB_URL='postgresql://…'", "the address of the project's own PostgreSQL"],
  ["tatame-db move plan", "what would become of each row, and what stands in the way; it only reads"],
  ["tatame-db move copy", "copies what differs and proves it; run it again as often as you like"],
  ["tatame-db move verify", "compares whole contents, down to the value"],
] as const;

const instructions = (): HTMLElement =>
  h(
    "div.never",
    h("p.lead", "No move was ever run into this database. This is how it goes, in a terminal:"),
    h(
      "ol",
      STEPS.map(([command, does]) => h("li", h("code", command), h("span", does))),
    ),
    h("p.muted", "This page shows each table as it is copied, and follows by itself."),
  );
