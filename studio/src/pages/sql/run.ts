// Runs and cancels statements, and shows their outcome.

import { ask, post, posted, Refused } from "../../api.ts";
import { announce, button, h, memory, number } from "../../dom.ts";
import { chartStore } from "./chart/store.ts";
import type { Editor, Statement } from "./editor.ts";
import { type Past, remember } from "./history.ts";
import type { Results } from "./results.ts";
import { describeDone, type How, type Line, readLines, type SqlProblem } from "./stream.ts";

const CAPS = ["100", "1000", "10000", "50000"];
const BROKEN_OFF: SqlProblem = {
  what: "The response was interrupted",
  means: "The studio or the database stopped while the statement was running.",
};

type Running = { id: string; abort: AbortController; statement: Statement; how: How; past: Past };

export class Runner {
  readonly controls: HTMLElement[];
  readonly outcome = h("div.outcome", { role: "status", "aria-live": "polite" });
  private readonly editor: Editor;
  private readonly results: Results;
  private readonly starters: HTMLButtonElement[];
  private readonly cancel = button("Cancel", () => void this.stop(), { class: "danger", title: "Alt+.", hidden: true });
  private readonly cap: HTMLSelectElement;
  private running: Running | null = null;

  constructor(editor: Editor, results: Results) {
    this.editor = editor;
    this.results = results;
    this.starters = [
      button("Run", () => void this.run("rows"), { class: "primary", title: "Ctrl+Enter" }),
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
    const statement = this.editor.statement();
    if (this.running) announce("A statement is already running. Cancel it first.");
    else if (!statement.text.trim()) announce("No statement to run.");
    else await this.execute(statement, how);
  }

  /** Cancel the running statement on the server, or stop reading if the server does not respond. */
  async stop(): Promise<void> {
    if (!this.running) return;
    this.outcome.textContent = "cancelling";
    await post("/api/sql/cancel", { id: this.running.id }).catch(() => this.running?.abort.abort());
  }

  private async execute(statement: Statement, how: How): Promise<void> {
    const past = { text: statement.text, at: new Date().toISOString() };
    const running: Running = { id: crypto.randomUUID(), abort: new AbortController(), statement, how, past };
    const stopClock = this.begin(running);
    try {
      await this.read(running);
    } catch (error) {
      if (error instanceof Refused) this.fail(error.problem, running);
      else if (running.abort.signal.aborted) this.outcome.textContent = "stopped";
      else this.fail(BROKEN_OFF, running);
    } finally {
      stopClock();
      this.running = null;
      this.enable(true);
      remember(running.past);
    }
  }

  /** Show that a statement is running, and for how long. Returns a function that stops the clock. */
  private begin(running: Running): () => void {
    this.running = running;
    this.editor.clearError();
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
    const { id, statement, how, abort } = running;
    const explain = how === "rows" ? {} : { explain: how };
    const question = { id, text: statement.text, ...explain, limit: Number(this.cap.value) };
    const { body } = await ask("/api/sql", { ...posted(question), signal: abort.signal });
    if (!body) return;
    for await (const line of readLines(body)) this.show(line, running);
  }

  private show({ columns, rows, plan, done, error }: Line, running: Running): void {
    const { how, past, statement } = running;
    if (columns) {
      const about = { name: this.editor.name, statement: statement.text };
      this.results.showColumns(columns, about, chartStore(this.editor, statement));
    }
    if (rows) this.results.addRows(rows);
    if (plan) this.results.showPlan(plan, how === "analyze");
    if (done) {
      past.ms = done.ms;
      past.rows = done.rows;
      this.outcome.textContent = describeDone(done, how);
      this.results.complete(done.more ?? false);
      this.results.showNotices(done.notices ?? []);
    }
    if (error) this.fail(error, running);
  }

  private fail(problem: SqlProblem, { statement, past }: Running): void {
    past.failed = problem.what;
    this.outcome.textContent = "failed";
    this.outcome.classList.add("wrong");
    const { position, what } = problem;
    this.results.showProblem(problem, position ? this.editor.markError(statement, position, what) : null);
  }
}
