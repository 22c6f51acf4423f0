// The activity page: the sessions of the server, who waits for whom, and slow statements.

import { asRefused, get } from "../../api.ts";
import { type Child, h, plural } from "../../dom.ts";
import { columnHeading, marked, problemBox } from "../../parts.ts";
import { patch } from "../../patch.ts";
import type { Page } from "../../router.ts";
import { session as studio } from "../../session.ts";
import { cancelButton, cancelOnClick } from "./cancel.ts";
import { type Statements, slowStatements } from "./statements.ts";
import { statementOf } from "./text.ts";
import { age, type Session, type Wait, waitsOf } from "./waits.ts";

const SECONDS = 2;
/** Reading the recorded statements takes longer than reading the sessions. */
const SECONDS_OF_STATEMENTS = 30;

export function activityPage(): Page {
  const body = h("div");
  let sessions: Session[] = [];
  let statements: Statements | undefined;
  let read = 0;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let isLeft = false;

  const load = async (): Promise<void> => {
    clearTimeout(timer);
    try {
      sessions = await get<Session[]>("/api/activity");
      if (!statements || Date.now() - read > SECONDS_OF_STATEMENTS * 1000) {
        statements = await get<Statements>("/api/activity/statements");
        read = Date.now();
      }
      patch(body, h("div", draw(sessions, statements)));
    } catch (error) {
      patch(body, h("div", problemBox(asRefused(error).problem)));
    }
    clearTimeout(timer);
    if (!isLeft && !document.hidden) timer = setTimeout(() => void load(), SECONDS * 1000);
  };
  const onVisible = (): void => {
    if (!document.hidden) void load();
  };
  document.addEventListener("visibilitychange", onVisible);
  cancelOnClick(
    body,
    (pid) => sessions.find((session) => session.pid === pid),
    () => void load(),
  );
  void load();
  return {
    title: "Activity",
    element: h("section.page.activity", h("h1", "Activity"), body),
    reload: (arrived) => {
      arrived();
      void load();
    },
    leave: () => {
      isLeft = true;
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", onVisible);
    },
  };
}

const draw = (sessions: Session[], statements: Statements): Child[] => {
  const waits = waitsOf(sessions);
  return [
    h("p.lead", summary(sessions)),
    unseen(sessions),
    h(
      "section.card",
      { "aria-label": "Locks" },
      h("h2", "Who waits for whom"),
      waits.length ? h("ul.waits", waits.map(waitItem)) : h("p.muted", "No session waits for a lock."),
    ),
    h("h2", "Sessions"),
    sessionTable(sessions),
    h("h2", "Slow statements"),
    slowStatements(statements, sessions),
  ];
};

function summary(sessions: Session[]): string {
  const active = sessions.filter(({ state }) => state === "active").length;
  const idle = sessions.filter(({ state }) => state?.startsWith("idle in transaction")).length;
  const waiting = sessions.filter(({ blockers }) => blockers.length).length;
  return `${plural(sessions.length, "session")}: ${active} active, ${idle} idle in a transaction, ${waiting} waiting for a lock.`;
}

function unseen(sessions: Session[]): Child {
  const hidden = sessions.filter(({ visible }) => !visible).length;
  if (!hidden) return null;
  const grant = `GRANT pg_read_all_stats TO ${studio.role}`;
  return h(
    "p.muted",
    `The role ${studio.role} does not see the state and the statement of ${plural(hidden, "session")} of other roles. `,
    "To show them, a superuser runs ",
    h("code", grant),
  );
}

const nameOf = ({ pid, role, application, kind }: Session): string =>
  [String(pid), application || (kind === "client backend" ? "" : kind), role ? `as ${role}` : ""]
    .filter(Boolean)
    .join(" · ");

function waitItem({ pid, session, waiting }: Wait): HTMLElement {
  const below = waiting.length > 0 && h("ul", waiting.map(waitItem));
  if (!session)
    return h(
      "li",
      { "data-key": pid },
      pid ? `session ${pid}` : "a prepared transaction: COMMIT PREPARED ends it",
      below,
    );
  const seconds = session.transaction_seconds ?? session.seconds;
  return h(
    "li",
    { "data-key": pid },
    h(
      "div.wait",
      h("strong", nameOf(session)),
      session.lock !== null && h("span.wrong", `waits for ${session.lock}`),
      session.visible &&
        seconds !== null &&
        h("span.muted", `${session.state}, its transaction runs for ${age(seconds)}`),
      cancelButton(session),
    ),
    h("div", statementOf(session)),
    session.state?.startsWith("idle in transaction") &&
      h(
        "p.muted",
        "Its client holds the transaction open. ",
        marked(`\`SELECT pg_terminate_backend(${pid})\` ends it.`),
      ),
    below,
  );
}

const HEADINGS = ["Session", "Role", "Application", "State", "For", "Waits for", "Statement"];

const sessionTable = (sessions: Session[]): HTMLElement =>
  h(
    "div.scroll",
    { tabindex: 0, role: "region", "aria-label": "Sessions" },
    h(
      "table.list.sessions",
      h(
        "thead",
        h(
          "tr",
          HEADINGS.map((text) => columnHeading(text)),
          studio.mode === "write" && h("td"),
        ),
      ),
      h("tbody", sorted(sessions).map(sessionRow)),
    ),
  );

/** Those that work come first, and of these the longest. */
const sorted = (sessions: Session[]): Session[] => {
  const rank = ({ blockers, state }: Session): number => {
    if (blockers.length) return 0;
    return ["active", "idle in transaction", "idle in transaction (aborted)"].indexOf(state ?? "") + 1 || 9;
  };
  return [...sessions].sort((one, other) => rank(one) - rank(other) || (other.seconds ?? 0) - (one.seconds ?? 0));
};

const sessionRow = (session: Session): HTMLElement =>
  h(
    "tr",
    { "data-key": session.pid },
    h("th", { scope: "row" }, String(session.pid)),
    h("td", session.role ?? ""),
    h("td", session.application ?? "", session.own && h("span.muted", " (this studio)")),
    h("td", session.visible ? (session.state ?? session.kind) : h("span.muted", "not visible")),
    h("td.right", session.seconds === null ? "" : age(session.seconds)),
    h("td", session.lock ?? session.waiting_for ?? ""),
    h("td.statement", statementOf(session)),
    studio.mode === "write" && h("td", cancelButton(session)),
  );
