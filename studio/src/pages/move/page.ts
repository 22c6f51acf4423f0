// The move page: the progress and the result of the move out of Supabase.

import { asRefused, get } from "../../api.ts";
import { announce, button, type Child, h, number, plural, replace } from "../../dom.ts";
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

const CHECK = "Check for later writes";

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
    check.textContent = "Checking…";
    try {
      ({ stale } = await get<{ stale: Stale }>("/api/move/stale"));
      if (latest) draw(latest);
    } catch (error) {
      announce(asRefused(error).problem.what);
    }
    check.disabled = false;
    check.textContent = CHECK;
  };
  void load();
  return {
    title: "Move",
    element: h("section.page.move", h("h1", "Move out of Supabase"), body),
    reload: (arrived) => {
      arrived();
      void load();
    },
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
    h(
      "div.row",
      check,
      h(
        "span.muted",
        "Reads every table of this database. ",
        h("code", "tatame-db move verify"),
        " compares source and target.",
      ),
    ),
    h("details", h("summary", "Runs"), h("ul.plain", runs.map(runLine))),
  ];
}

const describeRun = ({ id, started_at, ended_at, outcome }: Run): string =>
  `Run ${id} started ${timestamp(started_at)}${ended_at ? `, ended ${timestamp(ended_at)}` : ""}: ${outcome}.`;

const runLine = ({ id, started_at, outcome, source }: Run): HTMLElement =>
  h("li", `${id} · ${timestamp(started_at)} · ${outcome} · from ${source}`);

const parkedKeys = (parked: string[], running: boolean): HTMLElement =>
  h(
    "div.problem",
    h("strong", `${number(parked.length)} foreign keys and indexes are dropped during the copy`),
    h(
      "p",
      running
        ? "The copy restores them at the end."
        : ["A run was killed. ", h("code", "tatame-db move copy"), " restores them."],
    ),
    h("p.muted", parked.join(", ")),
  );

const STEPS = [
  ["export SUPABASE_DB_URL='postgresql://…'", "the address of the project's PostgreSQL"],
  ["tatame-db move plan", "shows how each table would be copied, and all obstacles; only reads"],
  ["tatame-db move copy", "copies the differences and proves the result; safe to repeat"],
  ["tatame-db move verify", "compares all rows, down to the value"],
] as const;

const instructions = (): HTMLElement =>
  h(
    "div.never",
    h("p.lead", "No move has run into this database yet. To move a project, run these commands in a terminal:"),
    h(
      "ol",
      STEPS.map(([command, does]) => h("li", h("code", command), h("span", does))),
    ),
    h("p.muted", "This page follows the copy automatically."),
  );
