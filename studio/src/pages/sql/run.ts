// Runs and cancels the statements of one tab, and shows their results.

import { ask, post, posted, Refused } from "../../api.ts";
import { announce, button, h, memory, number } from "../../dom.ts";
import { chartStore } from "./chart/store.ts";
import type { Editor, Script } from "./editor.ts";
import { type Past, remember } from "./history.ts";
import { askAbout } from "./question.ts";
import { ResultPane } from "./result-pane.ts";
import { Results } from "./results.ts";
import { closeSessions, SessionBar } from "./session-bar.ts";
import {
  describeDone,
  describeRun,
  type How,
  type Line,
  offsetOf,
  type Place,
  readLines,
  type SqlProblem,
} from "./stream.ts";
import type { Tab } from "./tabs.ts";

const CAPS = ["100", "1000", "10000", "50000"];
const BROKEN_OFF: SqlProblem = {
  what: "The response was interrupted",
  means: "The studio or the database stopped while the statement was running.",
};
const undone = (inTime: boolean): string =>
  inTime ? "rolled back, as you chose" : "rolled back: there was no answer in time";

type Running = {
  id: string;
  abort: AbortController;
  script: Script;
  how: How;
  past: Past;
  place: Place | null;
  ms: number;
  closeQuestion: (() => void) | null;
};

/** The controls of a tab, its session and its results. They live on while another tab or page is shown. */
export class Runner {
  readonly controls: HTMLElement[];
  readonly outcome = h("div.outcome", { role: "status", "aria-live": "polite" });
  readonly results = new Results();
  readonly session: SessionBar;
  private readonly tab: Tab;
  private readonly editor: () => Editor | null;
  private readonly starters: HTMLButtonElement[];
  private readonly cancel = button("Cancel", () => void this.stop(), { class: "danger", title: "Alt+.", hidden: true });
  private readonly cap: HTMLSelectElement;
  private running: Running | null = null;

  /** `editor` returns the editor while it shows the tab, and `show` makes the page show it. */
  constructor(tab: Tab, editor: () => Editor | null, show: () => void) {
    this.tab = tab;
    const run = (text: string): void => void this.execute({ text, from: -1 }, "rows");
    this.session = new SessionBar(run, { title: () => tab.name, show });
    this.editor = editor;
    this.starters = [
      button("Run", () => void this.run("rows"), { class: "primary", title: "Ctrl+Enter" }),
      button("Run all", () => void this.runAll(), {
        title: "Alt+Enter: all statements of the tab, one after the other",
      }),
      button("Explain", () => void this.run("plan"), { title: "Ctrl+Shift+Enter" }),
      button("Explain analyze", () => void this.run("analyze"), { title: "Run the statement and measure each step" }),
    ];
    this.cap = h(
      "select",
      { "aria-label": "Row limit", onchange: () => memory.set("sql:cap", this.cap.value) },
      CAPS.map((value) => h("option", { value }, `${number(Number(value))} rows`)),
    );
    this.cap.value = memory.get("sql:cap", "1000");
    this.controls = [...this.starters, this.cancel, this.cap];
  }

  async run(how: How): Promise<void> {
    const script = this.editor()?.script();
    if (script) await this.execute(script, how);
  }

  async runAll(): Promise<void> {
    const script = this.editor()?.whole();
    if (script) await this.execute(script, "rows");
  }

  /** Cancel the running statement on the server, or stop reading if the server does not respond. */
  async stop(): Promise<void> {
    if (!this.running) return;
    this.outcome.textContent = "cancelling";
    await post("/api/sql/cancel", { id: this.running.id }).catch(() => this.running?.abort.abort());
  }

  /** Run COMMIT or ROLLBACK; return whether it has succeeded. */
  async end(text: string): Promise<boolean> {
    await this.execute({ text, from: -1 }, "rows");
    return !this.session.hasWork && this.results.last?.failed === false;
  }

  /** Cancel what runs and end the session, because the tab closes. */
  close(): void {
    void this.stop();
    closeSessions([this.session]);
  }

  private async execute(script: Script, how: How): Promise<void> {
    if (this.running) announce("A statement is already running. Cancel it first.");
    else if (!script.text.trim()) announce("No statement to run.");
    else await this.start(script, how);
  }

  private async start(script: Script, how: How): Promise<void> {
    const past = { text: script.text, at: new Date().toISOString() };
    const abort = new AbortController();
    const running = { id: crypto.randomUUID(), abort, script, how, past, place: null, ms: 0, closeQuestion: null };
    const stopClock = this.begin(running);
    try {
      await this.read(running);
    } catch (error) {
      if (error instanceof Refused) this.fail(error.problem, running);
      else if (abort.signal.aborted) this.outcome.textContent = "stopped";
      else this.fail(BROKEN_OFF, running);
    } finally {
      stopClock();
      (running as Running).closeQuestion?.();
      this.running = null;
      this.enable(true);
      remember(running.past);
    }
  }

  /** Show that a statement is running, and for how long. Returns a function that stops the clock. */
  private begin(running: Running): () => void {
    this.running = running;
    this.editor()?.clearError();
    this.results.clear();
    this.enable(false);
    this.outcome.textContent = "running";
    this.outcome.classList.remove("wrong");
    const began = performance.now();
    const clock = setInterval(() => {
      this.outcome.textContent = `running for ${Math.round((performance.now() - began) / 1000)} s`;
    }, 1000);
    return () => clearInterval(clock);
  }

  private enable(isIdle: boolean): void {
    for (const starter of this.starters) starter.disabled = !isIdle;
    this.cancel.hidden = isIdle;
  }

  private async read(running: Running): Promise<void> {
    const { id, script, how, abort } = running;
    const { text, cursor } = script;
    const explain = how === "rows" ? {} : { explain: how };
    const question = {
      id,
      tab: this.session.id,
      text,
      cursor: cursor ?? null,
      ...explain,
      limit: Number(this.cap.value),
      in_transaction: this.session.inTransaction,
    };
    const { body } = await ask("/api/sql", { ...posted(question), signal: abort.signal });
    if (!body) return;
    let isComplete = false;
    for await (const line of readLines(body)) {
      this.show(line, running);
      isComplete ||= line.session !== undefined;
    }
    if (!isComplete) this.fail(BROKEN_OFF, running);
  }

  private show(line: Line, running: Running): void {
    const { how } = running;
    const { statement, columns, rows, plan, question, done, error, undone: notDone, session } = line;
    if (statement) this.beginStatement(statement, running);
    const view = this.results.last;
    if (columns) view?.showColumns(columns);
    if (rows) view?.addRows(rows);
    if (plan) view?.showPlan(plan, how === "analyze");
    if (question) running.closeQuestion = askAbout(question, view?.statement ?? "", running.id);
    if (done && view) this.endStatement(done, view, running);
    if (notDone) this.notDone(notDone.in_time, running);
    if (error) this.fail(error, running);
    if (session) this.session.set(session);
  }

  private beginStatement(place: Place, running: Running): void {
    const { text, cursor } = running.script;
    running.place = place;
    const statement = text.slice(offsetOf(text, place.start), offsetOf(text, place.end));
    if (cursor !== undefined) running.past.text = statement;
    this.results.add(this.pane(statement, running.script.from + offsetOf(text, place.start)));
  }

  private pane(statement: string, from: number): ResultPane {
    const text = (): string => this.editor()?.text() ?? "";
    const replace = (start: number, end: number, insert: string): void => this.editor()?.replace(start, end, insert);
    return new ResultPane({ name: this.tab.name, statement }, chartStore({ text, replace }, { text: statement, from }));
  }

  private endStatement(done: NonNullable<Line["done"]>, view: ResultPane, running: Running): void {
    const { past, how, place } = running;
    running.ms += done.ms;
    view.summary = describeDone(done, how);
    if (how === "rows" && !view.heads.length && !view.rows.length) view.showText(done.command ?? "Done");
    view.complete(done.more ?? false);
    view.showNotices(done.notices ?? []);
    const isScript = place !== null && place.of > 1;
    past.outcome = isScript ? describeRun(place.index + 1, running.ms) : view.summary;
    this.outcome.textContent = past.outcome;
    this.results.drawList();
  }

  /** A statement that was rolled back after its question has not failed. */
  private notDone(inTime: boolean, { past }: Running): void {
    const view = this.results.last;
    past.outcome = undone(inTime);
    this.outcome.textContent = past.outcome;
    if (!view) return;
    view.summary = past.outcome;
    view.showText(`The statement was ${past.outcome}. It changed nothing.`);
    view.complete(false);
    this.results.drawList();
  }

  private fail(problem: SqlProblem, { script, past, place }: Running): void {
    past.failed = problem.what;
    this.outcome.textContent = place && place.of > 1 ? `statement ${place.index + 1} of ${place.of} failed` : "failed";
    this.outcome.classList.add("wrong");
    const view = this.results.last ?? this.results.add(this.pane(script.text, script.from));
    const { position, what, notices } = problem;
    view.failed = true;
    view.summary = "failed";
    const editor = script.from < 0 ? null : this.editor();
    const at = position && place ? place.start + position - 1 : null;
    view.showNotices(notices ?? []);
    view.showProblem(problem, at === null ? null : (editor?.markError(script, at, what) ?? null));
    this.results.drawList();
  }
}
