// The move page: the progress and the result of the move out of Supabase, and its day.

import { asRefused, get } from "../../api.ts";
import { announce, button, h, number, plural, replace } from "../../dom.ts";
import { type Part, problemBox, redrawing, showing, timestamp } from "../../parts.ts";
import type { Page } from "../../router.ts";
import { backPart } from "./back.ts";
import { type Follower, followerPart } from "./followers.ts";
import { earlierSwitches, type Switch, switchPart } from "./switches.ts";
import { type Home, type MovedTable, moveTable, type Stale } from "./table.ts";

type Run = {
  id: number;
  started_at: string;
  ended_at: string | null;
  outcome: string;
  error?: string | null;
  source: string;
  options: { home?: Home };
};
type Answer = {
  ever: boolean;
  running: boolean;
  runs: Run[];
  tables: MovedTable[];
  parked: string[];
  home_problem: string | null;
  /** Tables that a switch may have left without a home. */
  unfinished: string[];
  followers: Follower[];
  /** The newest first. */
  switches: Switch[];
};

export function movePage(): Page {
  const body = h("div");
  const redraw = redrawing(body);
  const table = moveTable();
  let events: EventSource | null = null;
  let latest: Answer | null = null;
  let stale: Stale = {};
  /** The tables of which the last check of the way back found no home, until their homes change. */
  let without: string[] = [];

  const back = backPart((homes) => {
    without = Object.keys(homes).filter((name) => homes[name] === "neither");
    if (latest) draw(latest);
  });
  const check = laterWrites((found) => {
    stale = found;
    if (latest) draw(latest);
  });
  const draw = (answer: Answer): void => {
    if (latest && homesOf(latest) !== homesOf(answer)) without = [];
    latest = answer;
    if (!answer.ever) {
      redraw([["instructions", null, instructions]]);
      return;
    }
    const tables = answer.tables.map((found) =>
      without.includes(found.table) ? { ...found, home: "neither" as const } : found,
    );
    table.show(tables, stale);
    redraw([
      ...progress({ ...answer, tables }),
      ["table", null, () => table.element],
      ["check", null, () => check],
      ...(hasMoved(tables) || answer.unfinished.length ? [["back", null, () => back] satisfies Part] : []),
      ["runs", answer.runs, () => h("details", h("summary", "Runs"), h("ul.plain", answer.runs.map(runLine)))],
    ]);
  };
  const load = (): Promise<void> =>
    showing(body, async () => {
      const answer = await get<Answer>("/api/move");
      replace(body);
      draw(answer);
      events?.close();
      events = new EventSource("/api/move/events");
      events.onmessage = ({ data }) => draw(JSON.parse(data));
    });
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

/** The button that finds the tables that were written to after their proof; `learn` is called with the result. */
function laterWrites(learn: (stale: Stale) => void): HTMLElement {
  const check = button("Check for later writes", async () => {
    check.disabled = true;
    try {
      learn((await get<{ stale: Stale }>("/api/move/stale")).stale);
    } catch (error) {
      announce(asRefused(error).problem.what);
    }
    check.disabled = false;
  });
  return h(
    "div.row",
    check,
    h(
      "span.muted",
      "Reads every table of this database. ",
      h("code", "tatame-db move verify"),
      " compares source and target.",
    ),
  );
}

const homesOf = ({ tables, switches }: Answer): string => JSON.stringify([tables.map(({ home }) => home), switches[0]]);

const hasMoved = (tables: MovedTable[]): boolean => tables.some(({ home }) => home !== "source");

/** The parts above the tables. */
function progress(answer: Answer): Part[] {
  const { runs, tables, parked, running, unfinished, followers, switches, home_problem: problem } = answer;
  const [last] = runs;
  const equal = tables.filter((table) => table.equal).length;
  const without = tables.flatMap(({ table, home }) => (home === "neither" ? [table] : []));
  const [newest, ...earlier] = switches;
  const lead = (): HTMLElement =>
    h(
      "p.lead",
      { role: "status" },
      running && h("span.live", "A copy is running. "),
      `${equal} of ${plural(tables.length, "table")} proven equal.`,
      last && ` ${describeRun(last)}`,
    );
  const parts: (Part | false | undefined)[] = [
    ["lead", [running, equal, last], lead],
    !!last?.error && ["error", last, () => failedRun(last)],
    parked.length > 0 && ["parked", [parked, running], () => parkedKeys(parked, running)],
    !!problem && ["problem", problem, () => problemBox({ what: problem, fix: "run `tatame-db move status`" })],
    (without.length > 0 || unfinished.length > 0) && [
      "homeless",
      [without, unfinished],
      () => homeless(without.length ? without : unfinished, without.length > 0),
    ],
    (followers.length > 0 || switches.length > 0 || hasMoved(tables)) && [
      "homes",
      tables.map(({ home }) => home),
      () => homeLine(tables),
    ],
    newest && ["switch", newest, () => switchPart(newest)],
    earlier.length > 0 && ["earlier", earlier, () => h("div", earlierSwitches(earlier))],
    ...followers.map((follower): Part => [follower.home, follower, () => followerPart(follower)]),
  ];
  return parts.filter((part): part is Part => !!part);
}

function homeLine(tables: MovedTable[]): HTMLElement {
  const moved = tables.filter(({ home }) => home === "target").length;
  return h(
    "p",
    h("strong", `${moved} of ${plural(tables.length, "table")} have moved.`),
    " The home of a table takes its writes; the other database follows, and refuses all other writers. ",
    moved < tables.length && [h("code", "tatame-db move switch"), " makes the target the home. "],
    moved > 0 && [h("code", "tatame-db move back"), " makes the source the home again, with all rows."],
  );
}

function homeless(tables: string[], isCertain: boolean): HTMLElement {
  const names = tables.join(" ");
  return h(
    "div.problem",
    { role: "alert" },
    h(
      "strong",
      `${tables.join(", ")}: ${isCertain ? "neither database takes" : "maybe neither database takes"} writes`,
    ),
    h(
      "p",
      "A switch was interrupted between its two commits. No row is lost: all rows are in both, and were compared.",
    ),
    h(
      "p",
      h("code", `tatame-db move switch ${names}`),
      " lets the target take the writes, ",
      h("code", `tatame-db move back ${names}`),
      " the source.",
    ),
  );
}

const failedRun = ({ id, error }: Run): HTMLElement =>
  h("div.problem", h("strong", `Run ${id} did not prove the move`), h("p", error));

const describeRun = ({ id, started_at, ended_at, outcome }: Run): string =>
  `Run ${id} started ${timestamp(started_at)}${ended_at ? `, ended ${timestamp(ended_at)}` : ""}: ${outcome}.`;

const runLine = ({ id, started_at, outcome, source, options }: Run): HTMLElement =>
  h("li", `${id} · ${timestamp(started_at)} · ${kindOf(options)}: ${outcome} · source ${source}`);

const kindOf = ({ home }: Run["options"]): string =>
  ({ source: "way back", target: "switch", neither: "" })[home ?? "neither"] || "copy";

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
